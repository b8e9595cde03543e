"""Decides which candidates stay: block, allow, seen and cap."""

from dataclasses import dataclass

import numpy as np

from service.rules.bound import BoundRules
from service.rules.candidates import CandidateList, is_in
from service.rules.definition.rules import Allow, Block, Cap, Seen
from service.store.shown import DAY_MS, Exposures


@dataclass(frozen=True, eq=False)
class Filtered:
    """Which candidates stay, bool `[C]`; how many each rule removed, by its place; the places of rules that were
    relaxed.
    """

    stays: np.ndarray
    removed: dict[int, int]
    relaxed: tuple[int, ...]


def filtered(bound: BoundRules, candidates: CandidateList, exposures: Exposures, now_ms: int) -> Filtered:
    """Apply the filters in the operator's order.

    `seen` and `cap` are relaxed if nothing would remain; block and allow never.
    """
    stays = np.ones(len(candidates), dtype=bool)
    removed: dict[int, int] = {}
    relaxed: list[int] = []
    for place, rule in enumerate(bound.rules):
        if not isinstance(rule, (Block, Allow, Seen, Cap)):
            continue
        after = stays & _passing(bound, place, rule, candidates, exposures, now_ms)
        if isinstance(rule, (Seen, Cap)) and stays.any() and not after.any():
            relaxed.append(place)
            continue
        removed[place] = int(stays.sum() - after.sum())
        stays = after
    return Filtered(stays, removed, tuple(relaxed))


def _passing(
    bound: BoundRules,
    place: int,
    rule: Block | Allow | Seen | Cap,
    candidates: CandidateList,
    exposures: Exposures,
    now_ms: int,
) -> np.ndarray:
    """Which candidates one rule lets through, bool `[C]`."""
    if isinstance(rule, (Block, Allow)):
        if rule.when is not None:
            named = bound.matches(rule.when, candidates)
        else:
            listed = bound.item_ids[place]
            named = np.fromiter((i in listed for i in candidates.item_ids), dtype=bool, count=len(candidates))
        return named if isinstance(rule, Allow) else ~named
    start_ms = now_ms - rule.within_days * DAY_MS
    if isinstance(rule, Seen):
        return ~is_in(candidates.item_keys, np.sort(exposures.within(start_ms, now_ms)))
    shown, counts = np.unique(exposures.within(start_ms, now_ms, shown_only=True), return_counts=True)
    return ~is_in(candidates.item_keys, shown[counts >= rule.at_most])
