"""Trains the members of a run one by one, and combines them into one model: one network, or an ensemble of seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.data.cache import Data
from models.network.build import build_ensemble, members_together
from models.network.model import MultiTaskModel
from models.recipe import Recipe
from models.training.checkpoint import (
    OPTIMISER_FILE,
    WEIGHTS_FILE,
    load_optimisers,
    load_whole,
    save_optimisers,
    save_weights,
)
from models.training.evaluation import evaluate
from models.training.loop import TrainedWeights, learn
from models.training.outcome import MEMBERS_FOLDER, prepare_folder
from models.training.processes.meeting import say_prepared
from models.training.processes.ranks import ALONE, Ranks
from models.training.selection import finite, selected_outputs, selection_score
from models.training.session import Progress
from models.training.step import NonFiniteLossError
from models.training.warm_start import MemberStart, WarmStart

# A large step, so that runs with neighbouring seeds do not share members.
SEED_STEP = 1000


@dataclass(frozen=True)
class TrainedMembers:
    """The model with the best weights of every member; `members` and `histories` are empty if there is one network.

    `progress` is the network's own; for an ensemble, it has the losses and evaluations of the first member, the sum of
    all steps and seconds, the mean best step, and the ensemble's own score.
    """

    model: MultiTaskModel
    progress: Progress
    epoch_steps: int
    members: list[dict[str, Any]] = field(default_factory=list)
    histories: list[dict[str, Any]] = field(default_factory=list)


def member_seeds(recipe: Recipe) -> list[int]:
    """The seed of each member; the first is the recipe's."""
    return [recipe.training.seed + SEED_STEP * i for i in range(recipe.training.ensemble)]


def learn_members(
    recipe: Recipe,
    data: Data,
    out: Path,
    *,
    resume: bool = False,
    start: WarmStart | None = None,
    ranks: Ranks = ALONE,
    **options: Any,
) -> TrainedMembers:
    """Train as `learn` does, every member in a folder of its own; write the weights of all of them to `out`.

    With `start` every member continues the one in its place there. A resumed run keeps the finished members. Raises the
    errors of `learn`, and NonFiniteLossError if no evaluation gave a score. With several `ranks`, only the first
    process has the result.
    """
    starts: Sequence[MemberStart | None] = start.members if start else [None] * recipe.training.ensemble
    if recipe.training.ensemble == 1:
        trained = learn(recipe, data, out, resume=resume, start=starts[0], ranks=ranks, **options)
        _check_scored(trained, data)
        model = trained.average.ranker
        if ranks.writes:
            model.load_state_dict(load_whole(out / WEIGHTS_FILE)["weights"])
        return TrainedMembers(model, trained.progress, trained.epoch_steps)
    # Every member is a run of the recipe with another seed.
    if ranks.writes:
        prepare_folder(out, recipe, data, keep=resume)
        say_prepared()
    trained_members = list(_trained(recipe, data, out, resume, starts, options | {"ranks": ranks}))
    if not ranks.writes:
        return TrainedMembers(trained_members[0].average.ranker, Progress(), trained_members[0].epoch_steps)
    stored = [load_whole(folder / WEIGHTS_FILE)["weights"] for folder in _folders(recipe, out)]
    # Combine them into one model and measure it.
    model = build_ensemble(recipe, data.encoding, data.cross_values)
    model.load_state_dict(members_together(stored))
    progress = _together([one.progress for one in trained_members])
    measured = evaluate(model, data, "validation")["outputs"]
    progress.best_score = finite(selection_score(measured, selected_outputs(model, data)))
    save_weights(model.state_dict(), data.cross_values, progress.best_step, out / WEIGHTS_FILE)
    optimisers = [load_optimisers(folder / OPTIMISER_FILE)[0] for folder in _folders(recipe, out)]
    save_optimisers(optimisers, out / OPTIMISER_FILE)
    epoch_steps = trained_members[0].epoch_steps
    seeds = member_seeds(recipe)
    described = [_described(s, one, recipe) for s, one in zip(seeds, trained_members, strict=True)]
    histories = [
        {"seed": s, "losses": one.progress.losses, "evaluations": one.progress.evaluations}
        for s, one in zip(seeds, trained_members, strict=True)
    ]
    return TrainedMembers(model, progress, epoch_steps, described, histories)


def _folders(recipe: Recipe, out: Path) -> list[Path]:
    return [out / MEMBERS_FOLDER / str(seed) for seed in member_seeds(recipe)]


def _trained(
    recipe: Recipe,
    data: Data,
    out: Path,
    resume: bool,
    starts: Sequence[MemberStart | None],
    options: Mapping[str, Any],
) -> Iterator[TrainedWeights]:
    for seed, folder, start in zip(member_seeds(recipe), _folders(recipe, out), starts, strict=True):
        training = recipe.training.model_copy(update={"seed": seed, "ensemble": 1})
        member = recipe.model_copy(update={"training": training})
        trained = learn(member, data, folder, resume=resume, start=start, **options)
        _check_scored(trained, data)
        yield trained


def _check_scored(trained: TrainedWeights, data: Data) -> None:
    """Raise NonFiniteLossError if no evaluation gave a score."""
    if trained.progress.best_score is None:
        outputs = ", ".join(selected_outputs(trained.average.ranker, data))
        raise NonFiniteLossError(
            f"no evaluation gave a finite score on the validation part for {outputs}: "
            "a selected output has no impression of its space there, or scores that are not finite"
        )


def _together(members: list[Progress]) -> Progress:
    first = members[0]
    return Progress(
        step=sum(one.step for one in members),
        best_step=round(sum(one.best_step for one in members) / len(members)),
        without_gain=first.without_gain,
        seconds=sum(one.seconds for one in members),
        losses=first.losses,
        evaluations=first.evaluations,
    )


def _described(seed: int, trained: TrainedWeights, recipe: Recipe) -> dict[str, Any]:
    """Describe one member for metrics.json and the manifest."""
    progress = trained.progress
    return {
        "seed": seed,
        "best": {"step": progress.best_step, "epoch": progress.best_step / trained.epoch_steps},
        "score": progress.best_score,
        "stopped_early": progress.without_gain >= recipe.training.patience,
    }
