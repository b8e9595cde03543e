"""Ranks a logged request again: bit for bit as it was, or with one thing changed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loop.errors import LogError
from loop.proof.again import ScoredAgain, bound, is_whole, logged_predictions, open_bundle, scored_again
from loop.proof.records import Exposure, exposure_of, layouts_of
from service.fusion.document import read_followed_fusion

_SHOWN = 20


@dataclass(frozen=True)
class Replay:
    """A request ranked again; `version` and `profile` are those that were used, `changed` whether one was chosen."""

    exposure: Exposure
    again: ScoredAgain
    version: str
    profile: str
    changed: bool

    @property
    def differing(self) -> list[str]:
        """The tasks, and `score`, whose bits differ from the record."""
        before = logged_predictions(self.exposure)
        tasks = list(self.exposure["tasks"])
        names = [
            task for row, task in enumerate(tasks) if before[row].tobytes() != self.again.predictions[row].tobytes()
        ]
        if np.array(self.exposure["scores"]).tobytes() != self.again.scores.tobytes():
            names.append("score")
        return names


def replay(
    log: Path,
    registry: Path,
    request_id: str,
    version: str | None = None,
    profile: str | None = None,
    threads: int = 1,
) -> Replay:
    """Rank a logged request again, by another `version` or `profile` if they are named. Raises LogError."""
    exposure = exposure_of(log, request_id)
    layouts = layouts_of(log, exposure["schema"])
    bundle = open_bundle(registry, exposure["model"], version or exposure["version"], threads)
    if bundle.tasks != tuple(exposure["tasks"]):
        raise LogError(f"{bundle.label} has the tasks {', '.join(bundle.tasks)}, the record {exposure['tasks']}")
    formula = None
    if profile is not None:
        document = read_followed_fusion(registry)
        known = {} if document is None else document.profiles
        if profile not in known:
            raise LogError(f"no fusion profile '{profile}' in {registry}; known: {', '.join(known) or 'none'}")
        formula = bound(known[profile], bundle)
    again = scored_again(exposure, layouts, bundle, formula)
    changed = version is not None or profile is not None
    return Replay(exposure, again, version or exposure["version"], profile or exposure["profile"], changed)


def lines(replayed: Replay) -> list[str]:
    """The replay as text: the proof that nothing differs, or the items in both orders."""
    exposure = replayed.exposure
    names = exposure["item_ids"]
    ranked_by = f"{exposure['model']}/{replayed.version}, profile {replayed.profile}"
    text = [f"request {exposure['request_id']} of user {exposure['user_id']}, {len(names)} items, by {ranked_by}"]
    if not is_whole(exposure):
        part = f"{len(names)} of {exposure['requested']} candidates"
        text.append(f"the record has {part} (FUNNELRANK_EXPOSURE_CUT): last bits may differ")
    if exposure["rules_list"] is not None:
        text.append(f"rules '{exposure['rules_list']}' arranged the list; the replay shows it before the rules")
    if "brownout:2" in exposure["degraded"]:
        text.append("a brown-out ranked it in two passes; the replay shows the order of the full model")
    differing = replayed.differing
    if not differing:
        return [*text, "every score is the same, bit for bit"]
    text.append(f"different: {', '.join(differing)}")
    order = np.argsort(-replayed.again.scores, kind="stable")
    text.append(f"{'now':>4} {'then':>5}  {'score now':>13} {'score then':>13}  item")
    for place, item in enumerate(order[:_SHOWN].tolist(), 1):
        now = replayed.again.scores[item]
        then = exposure["scores"][item]
        text.append(f"{place:>4} {item + 1:>5}  {now:>13.6g} {then:>13.6g}  {names[item]}")
    return text
