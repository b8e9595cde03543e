"""Ranks the mixtures of two requests, and shares the change of an item's place among four factors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from pathlib import Path

import numpy as np

from features.layouts import BEHAVIOUR_INPUTS
from loop.proof.again import bound, score_rows
from loop.proof.rules import listed
from loop.why.compared import (
    ComparedRequest,
    check_comparable,
    check_item,
    notes_on_shown,
    read_side,
    with_equal_candidates,
)
from loop.why.shapley import shapley_shares
from service.ranking.ordering import order
from service.ranking.scoring.chunks import Scored
from service.rollout.serving import bind_rule_sets
from service.rules.order.served import Served
from service.rules.scenes import ChosenRules

_ASKED = (
    "request_time",
    *BEHAVIOUR_INPUTS,
)  # what belongs to the user's behaviours, the time from which they count too


class Factor(StrEnum):
    """What may differ between two requests.

    `VERSION`: the model version. `WEIGHTS_AND_RULES`: the fusion profile with its weights, the rules and the length of
    the list. `FEATURES`: the rows of user and items, the counters, and what the request gave beside behaviours:
    context, values, sources and order of the candidates. `BEHAVIOURS`: the behaviours, the items that the user had been
    shown, and the time of the request.
    """

    VERSION = "version"
    WEIGHTS_AND_RULES = "weights_and_rules"
    FEATURES = "features"
    BEHAVIOURS = "behaviours"


@dataclass(frozen=True, eq=False)
class PlaceChange:
    """The places of an item in both requests as they are ranked again, among the same candidates, and the shares of
    the factors in their difference.

    `places` has the place for each set of factors that are those of the second request.
    """

    item: str
    first: ComparedRequest
    second: ComparedRequest
    candidates: int
    places: Mapping[frozenset[str], int]
    shares: Mapping[str, Fraction]
    notes: list[str] = field(default_factory=list)

    @property
    def before(self) -> int:
        return self.places[frozenset()]

    @property
    def after(self) -> int:
        return self.places[frozenset(Factor)]


def why(
    log: Path, registry: Path, item: str, request_a: str, request_b: str, common: bool = False, threads: int = 1
) -> PlaceChange:
    """Explain the place of an item in request B compared with request A, by 16 re-rankings.

    `common` compares the places among the candidates that the log has of both requests. Raises LogError.
    """
    first = read_side(log, registry, request_a, threads)
    second = read_side(log, registry, request_b, threads)
    check_comparable(first, second)
    check_item(first, item)
    check_item(second, item)
    whole = len(first.request.item_ids), len(second.request.item_ids)
    first, second = with_equal_candidates(first, second, common)
    mixtures = Mixtures(first, second)
    places: dict[frozenset[str], int] = {}

    def place_with(changed: frozenset[str]) -> int:
        places[changed] = mixtures.ranked(changed).index(item) + 1
        return places[changed]

    shares = shapley_shares(list(Factor), place_with)
    count = len(first.request.item_ids)
    notes = [*first.notes, *second.notes, *notes_on_shown(first, second)]
    if (count, count) != whole:
        notes.append(f"places are those among the {count} candidates that the log has of both requests")
    else:
        notes += _differences_from_log(item, mixtures)
    return PlaceChange(item, first, second, count, places, shares, notes)


@dataclass(frozen=True, eq=False)
class Mixtures:
    """Ranks with some factors of the second request and the others of the first. Scores are computed once."""

    first: ComparedRequest
    second: ComparedRequest
    _scored: dict[tuple[ComparedRequest, ComparedRequest, ComparedRequest], Scored] = field(default_factory=dict)

    def ranked(self, changed: frozenset[str]) -> list[str]:
        """All candidates in their order, where the factors `changed` are those of the second request.

        Candidates beyond the returned list follow by their scores, those that a filter of the rules removed too.
        """
        version, fusing, features, asked = (self.second if factor in changed else self.first for factor in Factor)
        rules = _rules_of(fusing, version)
        scored = self._score(version, features, asked)
        numerics = features.request.inputs["item_numerics"]
        scores = bound(fusing.profile, version.bundle).fuse(scored.predictions, numerics)
        result = listed(rules, features.request, scored, scores, Served(), fusing.length, asked.exposure)
        finite = int(np.count_nonzero(np.isfinite(result.scores)))
        best = order(result.scores, finite, None)
        places = [*result.order.tolist(), *best[~np.isin(best, result.order)].tolist()]
        return [features.request.item_ids[place] for place in places]

    def _score(self, version: ComparedRequest, features: ComparedRequest, asked: ComparedRequest) -> Scored:
        key = (version, features, asked)
        if key not in self._scored:
            inputs = dict(features.request.inputs)
            inputs |= {name: asked.request.inputs[name] for name in _ASKED if name in asked.request.inputs}
            vectors = {name for side in (self.first, self.second) for name in _vectors_of(side, version)}
            chunk = int(version.exposure["chunk"])
            self._scored[key] = score_rows(version.bundle, inputs, chunk, vectors=sorted(vectors))
        return self._scored[key]


def _rules_of(fusing: ComparedRequest, version: ComparedRequest) -> ChosenRules | None:
    """The rules of one side, bound to the version of another. Raises RulesError if they do not fit."""
    scenes = bind_rule_sets(version.bundle.manifest, fusing.rules)
    if scenes is None or fusing.rules is None or fusing.rules_list is None:
        return None
    return ChosenRules(fusing.rules.revision, fusing.rules_list, scenes.bound[fusing.rules_list])


def _vectors_of(side: ComparedRequest, version: ComparedRequest) -> tuple[str, ...]:
    rules = _rules_of(side, version)
    return () if rules is None else rules.bound.outputs


def _differences_from_log(item: str, mixtures: Mixtures) -> list[str]:
    """A note for each request whose list is not, ranked again, the one that was returned."""
    notes = []
    for side, changed in ((mixtures.first, frozenset[str]()), (mixtures.second, frozenset[str](Factor))):
        ranked = mixtures.ranked(changed)
        if ranked[: len(side.returned)] == side.returned:
            continue
        logged = side.place_in_log(item)
        place = "did not return the item" if logged is None else f"returned the item at place {logged}"
        notes.append(f"{side.request_id} does not rank again as it was served: it {place}")
    return notes
