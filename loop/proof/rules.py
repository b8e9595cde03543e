"""Applies rules to a logged request again: those that its record names, or others."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loop.errors import LogError
from loop.proof.again import LoggedRequest
from loop.proof.records import Exposure
from service.bundle.loading import Bundle
from service.ranking.ordering import order
from service.ranking.scoring.chunks import Scored
from service.rollout.serving import bind_rule_sets
from service.rules.candidates import CandidateList, columns_of
from service.rules.definition.document import DOCUMENT, RULES_FILE, read_rules
from service.rules.definition.rule_sets import RuleSets
from service.rules.order.arrange import Arrangement, arrange
from service.rules.order.served import Served
from service.rules.scenes import ChosenRules
from service.store.shown import exposures_of


@dataclass(frozen=True, eq=False)
class LoggedList:
    """A list of a request, arranged by rules or by scores alone.

    `order` int64 `[k]` are the listed candidates by their positions in the request, `values` what each rule counts.
    """

    order: np.ndarray
    scores: np.ndarray
    arrangement: Arrangement | None = None

    def after(self, served: Served, request: LoggedRequest) -> Served:
        """The pages of a list up to and with this one."""
        item_ids = [request.item_ids[place] for place in self.order.tolist()]
        return served.and_then(item_ids, {} if self.arrangement is None else self.arrangement.values)


def named_rules(choice: str, registry: Path) -> RuleSets:
    """The rules that `--rules` names: a revision of the registry's document (0: no rules), or a file.

    Raises LogError and RulesError.
    """
    return rules_of_revision(int(choice), registry) if choice.isdigit() else read_rules(Path(choice))


def rules_of_revision(revision: int, registry: Path) -> RuleSets:
    """The rules of a revision. Raises LogError if the document's history does not have it."""
    if revision == 0:
        return RuleSets(revision=0, rules={})
    document = DOCUMENT.read_last_good(registry)
    states = [] if document is None else [document.model_dump(mode="json"), *document.history]
    for state in states:
        if state.get("revision") == revision:
            experiments = state.get("experiments") or {}
            content = {"revision": revision, "rules": state.get("rules") or {}, "experiments": experiments}
            return RuleSets.model_validate(content)
    known = ", ".join(str(state.get("revision")) for state in states) or "no revision"
    raise LogError(f"revision {revision} of the rules is not in {registry / RULES_FILE}, which has {known}")


def chosen_rules(exposure: Exposure, rule_sets: RuleSets, bundle: Bundle) -> ChosenRules | None:
    """The rules that this document has for the scene and user of a record. Raises RulesError if they do not fit."""
    scenes = bind_rule_sets(bundle.manifest, rule_sets)
    return None if scenes is None else scenes.for_user(exposure["scene"], exposure["user_id"])


def logged_rules(exposure: Exposure, registry: Path, bundle: Bundle) -> ChosenRules | None:
    """The rules that arranged the list of a record; None if none did. Raises LogError and RulesError."""
    if exposure["rules_revision"] is None:
        return None
    revision = int(exposure["rules_revision"])
    scenes = bind_rule_sets(bundle.manifest, rules_of_revision(revision, registry))
    name = exposure["rules_list"]
    if scenes is None or name not in scenes.bound:
        raise LogError(f"revision {revision} of the rules in {registry / RULES_FILE} has no list '{name}'")
    return ChosenRules(revision, name, scenes.bound[name], exposure["rules_experiment"], exposure["rules_arm"])


def listed(
    rules: ChosenRules | None,
    request: LoggedRequest,
    scored: Scored,
    scores: np.ndarray,
    served: Served,
    length: int,
    exposure: Exposure,
) -> LoggedList:
    """Arrange the candidates of a request as the service does: the first `length` of them, after the pages `served`.

    `exposure` is the record that says when the user asked and what the user had been shown.
    """
    if rules is None:
        finite = int(np.count_nonzero(np.isfinite(scores)))
        best = order(scores, finite, None)
        shown = set(served.item_ids)
        unseen = np.array([place for place in best.tolist() if request.item_ids[place] not in shown], dtype=np.int64)
        return LoggedList(unseen[:length], scores)
    candidates = CandidateList(
        request.item_ids,
        *columns_of(request.inputs),
        scores,
        scored.predictions,
        request.sources,
        scored.vectors,
    )
    arrangement = arrange(rules.bound, candidates, length, exposure["time_ms"], exposures_of(exposure["shown"]), served)
    return LoggedList(arrangement.order, arrangement.scores, arrangement)


def longest_list(exposure: Exposure) -> int:
    """The most items that a record's request asked for."""
    if exposure["top_k"] is not None:
        return int(exposure["top_k"])
    # Records of earlier releases do not say: a list that lacks candidates was cut to this length, or filtered.
    returned = int(exposure["returned"])
    return returned if returned < int(exposure["requested"]) else len(exposure["item_ids"])


def lacks_shown(rules: ChosenRules | None, exposure: Exposure) -> bool:
    """Whether rules read what the user had been shown and the record does not have it."""
    return rules is not None and rules.bound.exposure_days > 0 and exposure["shown"] is None
