"""The changing state of a training run: a checkpoint saves it, and a resumed run continues from it, bit for bit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.network.model import MultiTaskModel
from models.recipe import RecipeError
from models.training.checkpoint import RESUME_FILE, load_whole, save_whole
from models.training.device import device_of, moved, random_state, set_random_state
from models.training.processes.ranks import ALONE, Ranks
from models.training.updates.averaging import Average
from models.training.updates.optimisation import Optimiser
from models.training.weighting import Weighting


@dataclass
class Progress:
    """`step` counts batches over all epochs; losses are summed since the last point of the curve and the last
    evaluation.
    """

    step: int = 0
    best_score: float | None = None
    best_step: int = 0
    without_gain: int = 0
    seconds: float = 0.0
    traced: dict[str, float] = field(default_factory=dict)
    traced_steps: int = 0
    since_evaluation: dict[str, float] = field(default_factory=dict)
    steps_since_evaluation: int = 0
    losses: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, losses: Mapping[str, float]) -> None:
        """Add one batch's mean losses."""
        for name, loss in losses.items():
            self.traced[name] = self.traced.get(name, 0.0) + loss
            self.since_evaluation[name] = self.since_evaluation.get(name, 0.0) + loss
        self.traced_steps += 1
        self.steps_since_evaluation += 1

    def trace(self, weighting: Mapping[str, float]) -> None:
        """Add a point to the curve: the mean losses since the last point, and the figures of the weighting."""
        means = {n: v / self.traced_steps for n, v in self.traced.items()}
        self.losses.append({"step": self.step, "losses": means, "weighting": dict(weighting)})
        self.traced = {}
        self.traced_steps = 0

    def evaluated(self, entry: dict[str, Any]) -> bool:
        """Record an evaluation (its `score` selects, None if it is not finite); return True if it is the best
        so far.
        """
        means = {n: v / max(1, self.steps_since_evaluation) for n, v in self.since_evaluation.items()}
        self.evaluations.append(entry | {"step": self.step, "losses": means})
        self.since_evaluation = {}
        self.steps_since_evaluation = 0
        if entry["score"] is not None and (self.best_score is None or entry["score"] > self.best_score):
            self.best_score = entry["score"]
            self.best_step = self.step
            self.without_gain = 0
            return True
        self.without_gain += 1
        return False


def save_session(
    folder: Path,
    identity: dict[str, Any],
    progress: Progress,
    ranker: MultiTaskModel,
    average: Average,
    optimiser: Optimiser,
    weighting: Weighting,
    ranks: Ranks = ALONE,
) -> None:
    """Save everything that the rest of the run depends on, and its `identity`: recipe, data, threads.

    All processes call it at once: the first one gets the rows of all, and writes.
    """
    averaged = average.state()
    rows = {"optimiser": optimiser.rows_state(ranks.whole), "average": averaged["rows"]}
    if not ranks.writes:
        return
    content = {
        "identity": identity,
        "progress": vars(progress),
        "weights": ranker.state_dict(),
        "average": averaged["weights"],
        "optimiser": optimiser.rule.state_dict(),
        "weighting": weighting.state(),
    }
    content |= random_state(device_of(ranker))
    if optimiser.lazy:
        content["rows"] = rows
    save_whole(content, folder / RESUME_FILE)


def load_session(
    folder: Path,
    identity: dict[str, Any],
    ranker: MultiTaskModel,
    average: Average,
    optimiser: Optimiser,
    weighting: Weighting,
) -> Progress:
    """Restore a saved run's state, or start anew if there is none. Raises RecipeError if it belongs to another run."""
    path = folder / RESUME_FILE
    if not path.is_file():
        return Progress()
    content = load_whole(path)
    for name, value in identity.items():
        if content["identity"].get(name) != value:
            raise RecipeError(
                f"--resume: {path} was made with another {name}; start afresh without --resume, or give the same one"
            )
    ranker.load_state_dict(content["weights"])
    optimiser.rule.load_state_dict(content["optimiser"])
    device = device_of(ranker)
    rows: dict[str, Any] = content.get("rows", {"optimiser": [], "average": []})
    optimiser.load_rows(rows["optimiser"])
    average.load(content["average"], moved(rows["average"], device), content["progress"]["step"])
    weighting.load(moved(content["weighting"], device))
    set_random_state(content, device)
    return Progress(**content["progress"])
