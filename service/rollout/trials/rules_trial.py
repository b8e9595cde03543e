"""Tries rules on recent requests before they are used, and refuses rules that leave every list empty."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from service.clock import now_ms
from service.rollout.recent import Assembly, RecentRequests
from service.rollout.serving import Live, ServingSnapshot, bind_rule_sets
from service.rules.bound import BoundRules
from service.rules.candidates import CandidateList, columns_of
from service.rules.definition.errors import RulesError
from service.rules.definition.rule_sets import RuleSets
from service.rules.order.arrange import arrange

log = logging.getLogger("funnelrank.live")
_FEWEST_REQUESTS = 5  # a list that is empty for fewer says little about the next request
_MOST_REQUESTS = 20
_LENGTH = 50


def with_rules(rule_sets: RuleSets | None, snapshot: ServingSnapshot, recent: RecentRequests) -> ServingSnapshot:
    """Return the snapshot with other rules, as `tried_rules` does; log what is strange about them."""
    tried, warnings = tried_rules(rule_sets, snapshot, recent)
    for warning in warnings:
        log.warning("%s", warning)
    return tried


def tried_rules(
    rule_sets: RuleSets | None, snapshot: ServingSnapshot, recent: RecentRequests
) -> tuple[ServingSnapshot, list[str]]:
    """Return the snapshot with other rules, bound to every version in use; also what is strange about them.

    The rules are tried on this worker's newest requests of their scenes. Raises RulesError with the field if a rule
    names something that a version lacks, or if a list leaves no candidate in any of these requests.
    """
    bound_lives: dict[str, Live] = {}
    warnings: list[str] = []
    for live in snapshot.versions():
        try:
            rules = bind_rule_sets(live.bundle.manifest, rule_sets)
            for name, bound in rules.bound.items() if rules is not None else ():
                requests = _requests(live, rules.rule_sets, name, recent, snapshot) if rules is not None else []
                warnings += _try(name, bound, requests)
        except RulesError as error:
            raise RulesError(f"{error.message} ({live.place} {live.bundle.label})", error.field) from None
        bound_lives[live.bundle.label] = replace(live, rules=rules)
    profiles = snapshot.documents.profiles
    scenes = profiles.scenes if profiles is not None else {}
    for name in rule_sets.unused(scenes) if rule_sets is not None else ():
        warnings.append(f"rules '{name}' belong to no scene of the fusion profiles and to no experiment")
    return snapshot.with_bound(bound_lives, replace(snapshot.documents, rule_sets=rule_sets)), warnings


def _requests(
    live: Live, rule_sets: RuleSets, name: str, recent: RecentRequests, snapshot: ServingSnapshot
) -> list[Assembly]:
    """The newest requests of the version's lines that use a list: those of its scene, or of the scenes of experiments
    that name it.
    """
    scenes = {e.scene for e in rule_sets.experiments.values() if name in {arm.rules for arm in e.arms}}
    fingerprint = live.bundle.layouts.inputs_fingerprint
    of_lines = [recent.of(fingerprint, line.name) for line in snapshot.lines_with(live.bundle)]
    every = chain.from_iterable(reversed(requests) for requests in of_lines)
    of_list = [a for a in every if a.scene in scenes or rule_sets.name_for(a.scene) == name]
    return of_list[:_MOST_REQUESTS]


def _try(name: str, bound: BoundRules, requests: Sequence[Assembly]) -> list[str]:
    """Raise RulesError if every request ends without a candidate; return which rules were relaxed in all of them."""
    lengths = []
    relaxed: Counter[int] = Counter()
    for request in requests:
        arrangement = arrange(bound, _candidates(bound, request), _LENGTH, now_ms())
        lengths.append(len(arrangement.order))
        relaxed.update(arrangement.relaxed)
    if len(lengths) < _FEWEST_REQUESTS:
        return []
    if not any(lengths):
        candidates = sum(len(request.item_ids) for request in requests)
        message = f"none of {candidates} candidates of the newest {len(lengths)} requests would stay"
        raise RulesError(message, f"rules.{name}")
    always = [place for place, count in relaxed.items() if count == len(lengths)]
    return [f"rules.{name}[{place}] was relaxed in each of the newest {len(lengths)} requests" for place in always]


def _candidates(bound: BoundRules, request: Assembly) -> CandidateList:
    """The candidates of a request in its own order: whether rules can hold does not depend on the scores."""
    count = len(request.item_ids)
    keys, numerics = columns_of(request.inputs)
    return CandidateList(
        item_ids=request.item_ids,
        keys=keys,
        numerics=numerics,
        scores=np.linspace(1.0, 0.0, count),
        predictions=np.zeros((len(bound.tasks), count), dtype=np.float32),
        sources=request.sources,
    )
