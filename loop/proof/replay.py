"""Ranks a logged request again: bit for bit as it was, or with one thing changed. Every page of its list is ranked."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loop.errors import LogError
from loop.proof.again import (
    ScoredAgain,
    bound,
    check_rows,
    formula_of,
    is_own_version,
    is_whole,
    logged_predictions,
    logged_request,
    open_bundle,
    score_rows,
)
from loop.proof.present import with_present_rows
from loop.proof.records import Exposure, layouts_of, pages_of
from loop.proof.rules import (
    chosen_rules,
    lacks_shown,
    listed,
    logged_rules,
    longest_list,
    named_rules,
)
from service.bundle.loading import Bundle
from service.clock import now_ms
from service.fusion import Formula
from service.fusion.document import read_followed_fusion
from service.rules.definition.errors import RulesError
from service.rules.definition.rule_sets import RuleSets
from service.rules.order.served import Served
from service.rules.scenes import ChosenRules


@dataclass(frozen=True)
class ReplayChange:
    """What a replay changes; None leaves it as it was. `redis_url` names the store whose present rows are read."""

    version: str | None = None
    profile: str | None = None
    rules: str | None = None
    redis_url: str | None = None


@dataclass(frozen=True, eq=False)
class PageReplay:
    """One page ranked again: its scores in the order of the record, and its items in their order now.

    `listed` is None if the list cannot be arranged again; a note says why.
    """

    exposure: Exposure
    again: ScoredAgain
    listed: list[str] | None
    notes: list[str]

    @property
    def returned(self) -> list[str]:
        """The items that were returned, in their order."""
        items: list[str] = self.exposure["item_ids"][: self.exposure["returned"]]
        return items

    @property
    def is_moved(self) -> bool:
        """Whether the list is not the one that was returned."""
        return self.listed is not None and self.listed != self.returned

    @property
    def differing(self) -> list[str]:
        """The tasks, and `score`, whose bits differ from the record; a task of one side alone differs."""
        tasks = list(self.exposure["tasks"])
        before = logged_predictions(self.exposure)
        after = self.again.predictions
        names = [task for row, task in enumerate(tasks) if before[row].tobytes() != after[row].tobytes()]
        if np.array(self.exposure["scores"]).tobytes() != self.again.scores.tobytes():
            names.append("score")
        return names


@dataclass(frozen=True)
class Replay:
    """A request ranked again, page by page; `version` and `profile` are those that were used."""

    pages: list[PageReplay]
    version: str
    profile: str
    change: ReplayChange

    @property
    def is_changed(self) -> bool:
        return self.change != ReplayChange()

    @property
    def differing(self) -> list[str]:
        """The tasks, and `score`, whose bits differ on some page."""
        return list(dict.fromkeys(name for page in self.pages for name in page.differing))

    @property
    def is_moved(self) -> bool:
        """Whether some list is not the one that was returned."""
        return any(page.is_moved for page in self.pages)


def replay(
    log: Path,
    registry: Path,
    request_id: str,
    version: str | None = None,
    profile: str | None = None,
    threads: int = 1,
    rules: str | None = None,
    redis_url: str | None = None,
) -> Replay:
    """Rank a logged request again: by another `version`, `profile` or `rules` (a file or a revision), or with the rows
    that the store at `redis_url` has now. Raises LogError.
    """
    change = ReplayChange(version, profile, rules, redis_url)
    pages = pages_of(log, request_id)
    first = pages[0]
    used = version or first["version"]
    formula_name = profile or first["profile"]
    bundle = open_bundle(registry, first["model"], used, threads)
    if bundle.tasks != tuple(first["tasks"]):
        raise LogError(f"{bundle.label} has the tasks {', '.join(bundle.tasks)}, the record {first['tasks']}")
    formula = None if profile is None else _registry_formula(registry, profile, bundle)
    other_rules = None if rules is None else named_rules(rules, registry)
    # A next page goes on after the pages that are ranked again.
    done: list[PageReplay] = []
    served: Served | None = Served()
    returned = 0
    for exposure in pages:
        if (exposure["model"], exposure["version"]) != (first["model"], first["version"]):
            raise LogError(f"the pages of '{request_id}' were ranked by several versions")
        if returned != (exposure["ranked_before"] or 0):
            served = None
        returned += int(exposure["returned"])
        page, served = _page(exposure, log, registry, change, bundle, formula, other_rules, served)
        done.append(page)
    return Replay(done, used, formula_name, change)


def _page(
    exposure: Exposure,
    log: Path,
    registry: Path,
    change: ReplayChange,
    bundle: Bundle,
    formula: Formula | None,
    other_rules: RuleSets | None,
    served: Served | None,
) -> tuple[PageReplay, Served | None]:
    """Rank one page again, after the pages `served`. Returns the pages up to it; None if they are not known."""
    layouts = layouts_of(log, exposure["schema"])
    check_rows(bundle, layouts, exposure)
    request = logged_request(exposure, layouts)
    notes = _notes(exposure)
    if change.redis_url is not None:
        present = with_present_rows(request, layouts, change.redis_url, now_ms())
        request = present.request
        notes += present.notes
    chosen, obstacle = _rules_of_page(exposure, registry, bundle, other_rules)
    if served is None:
        obstacle = "the pages before this one have other request ids, or are not arranged again"
    # Score, fuse and arrange as the service does.
    compared = request.compared if is_own_version(exposure, bundle) and change.redis_url is None else None
    vectors = () if chosen is None else chosen.bound.outputs
    scored = score_rows(bundle, request.inputs, int(exposure["chunk"]), compared, vectors)
    scores = (formula or formula_of(exposure, bundle)).fuse(scored.predictions, request.inputs["item_numerics"])
    again = ScoredAgain(scored.predictions[:, request.places], scores[request.places])
    if obstacle or served is None:
        notes.append(f"{obstacle}; the list is shown before the rules")
        return PageReplay(exposure, again, None, notes), None
    if lacks_shown(chosen, exposure):
        notes.append("the record does not have what the user had been shown: the rules take it that nothing was")
    result = listed(chosen, request, scored, scores, served, longest_list(exposure), exposure)
    item_ids = [request.item_ids[place] for place in result.order.tolist()]
    return PageReplay(exposure, again, item_ids, notes), result.after(served, request)


def _rules_of_page(
    exposure: Exposure, registry: Path, bundle: Bundle, other_rules: RuleSets | None
) -> tuple[ChosenRules | None, str]:
    """The rules that arrange a list: those of the record, unless there are others. The text says why none can.

    Raises RulesError if the others do not fit the version.
    """
    if other_rules is not None:
        return chosen_rules(exposure, other_rules, bundle), ""
    if exposure["rules_revision"] is None:
        return None, ""
    if not is_whole(exposure):
        return None, "rules need every candidate"
    if exposure["top_k"] is None:
        return None, "the record is of an earlier release, which did not log all that rules read"
    try:
        return logged_rules(exposure, registry, bundle), ""
    except (LogError, RulesError) as error:
        return None, str(error)


def _registry_formula(registry: Path, profile: str, bundle: Bundle) -> Formula:
    """A profile of the registry, bound to a model. Raises LogError and FusionError."""
    document = read_followed_fusion(registry)
    known = {} if document is None else document.profiles
    if profile not in known:
        raise LogError(f"no fusion profile '{profile}' in {registry}; known: {', '.join(known) or 'none'}")
    return bound(known[profile], bundle)


def _notes(exposure: Exposure) -> list[str]:
    """What a reader must know of a record."""
    notes = []
    if not is_whole(exposure):
        part = f"{len(exposure['item_ids'])} of {exposure['requested']} candidates"
        notes.append(f"the record has {part} (FUNNELRANK_EXPOSURE_CUT): last bits may differ")
    if "brownout:2" in exposure["degraded"]:
        notes.append("a brown-out ranked it in two passes; the replay shows the order of the full model")
    if "brownout:3" in exposure["degraded"]:
        notes.append("a brown-out ranked it by the small version alone; the replay shows the order of the full model")
    return notes
