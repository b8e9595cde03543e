"""Defines the input and the result of a ranking, independent of the transport."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from service.fusion import Chosen, Explained, Formula
from service.ranking.degradation import Degradations
from service.rollout.serving import Live
from service.rules.scenes import ChosenRules


@dataclass(slots=True, frozen=True)
class DocumentChoice:
    """The names of a profile and of a list of rules that rank in place of the scene's and the user's own.

    None leaves these; empty `rules` are none at all.
    """

    profile: str | None = None
    rules: str | None = None


@dataclass(slots=True, eq=False)
class RankingOptions:
    """How to rank: `weights` replace the profile's weights, `page` is the token of an earlier page.

    `timestamp` is the time to rank as of, in milliseconds; None means now.
    """

    scene: str | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    top_k: int | None = None
    explain: bool = False
    page: str | None = None
    timestamp: int | None = None
    choice: DocumentChoice | None = None


@dataclass(slots=True, frozen=True)
class InlineBehaviour:
    """One behaviour of the user that the request brings along."""

    item_id: str
    action: str | int
    scene: str | int | None
    time_ms: int


@dataclass(slots=True, eq=False)
class InlineUser:
    """The user's features and behaviours that the request brings along, as they arrived.

    Each replaces the stored one unless it is None.
    """

    features: Mapping[str, object] | None = None
    behaviours: Sequence[InlineBehaviour] | None = None


@dataclass(slots=True, eq=False)
class Query:
    """A checked request.

    `own_features` holds the candidates' own values by position, `sources` the source of each candidate if any has one.
    `inline_user` is None if the request brings neither features nor behaviours of its user.
    """

    user_id: str
    item_ids: Sequence[str]
    own_features: Mapping[int, Mapping[str, object]] = field(default_factory=dict)
    context: Mapping[str, object] = field(default_factory=dict)
    options: RankingOptions = field(default_factory=RankingOptions)
    sources: Sequence[str | None] | None = None
    inline_user: InlineUser | None = None


@dataclass(slots=True, eq=False)
class Ranked:
    """The `k` best candidates, best first: `scores` float64 `[k]`, `predictions` float32 `[tasks, k]`.

    `explained` has columns `[k]` if the request asked for an explanation. NaN means that the model gave no score.
    """

    item_ids: Sequence[str]
    scores: np.ndarray
    predictions: np.ndarray
    explained: Sequence[Explained] | None = None


@dataclass(slots=True, frozen=True)
class Move:
    """The effect of one rule on one candidate: its rank before and after, from 1; None for a rank outside the
    answer.
    """

    rule: int
    before: int | None
    after: int


@dataclass(slots=True, eq=False)
class RulesExplained:
    """Each rule's effect: the moves of each answered candidate in the operator's order, and the decrease of the sum of
    the fused scores of the answered candidates, by the rule's position in the list.
    """

    moves: Sequence[Sequence[Move]]
    paid: Mapping[int, float]


@dataclass(slots=True, eq=False)
class AppliedRules:
    """The rules of one ranking: which were relaxed, which others had an effect, and how many candidates each filter
    removed.

    Rules are named by their positions in the list. `page` is the token of the next page if there is one; earlier pages
    have `ranked_before` candidates.
    """

    chosen: ChosenRules
    relaxed: tuple[int, ...]
    acted: frozenset[int]
    removed: Mapping[int, int]
    page: str | None = None
    ranked_before: int = 0
    explained: RulesExplained | None = None


class SecondsSpent(NamedTuple):
    """The seconds of a ranking that were spent on waiting for the store, and on each stage of computing."""

    fetching: float = 0.0
    assembling: float = 0.0
    scoring: float = 0.0
    fusing: float = 0.0

    @property
    def computing(self) -> float:
        return self.assembling + self.scoring + self.fusing


@dataclass(slots=True, eq=False)
class Computation:
    """The computation of a ranking: as of `moment_ms`, from the graph's named inputs.

    `predictions` are float32 `[tasks, C]` and `scores` float64 `[C]`, both of all candidates in the request's order.
    The scores are the fused ones, before rules of type boost. `coverage` is the number of requested and of scored
    candidates. `shown` has the packed entries of the items that the user was shown; None if no rule reads them.
    """

    moment_ms: int = 0
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    predictions: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0))
    coverage: tuple[int, int] = (0, 0)
    shown: bytes | None = None
    seconds: SecondsSpent = field(default_factory=SecondsSpent)


@dataclass(slots=True, eq=False)
class Ranking:
    """One ranking: its model version and profile, the candidates in order, and the degradations.

    `chosen` is the user's arm in the experiment. `rules` is None if the scene has none.
    """

    live: Live
    formula: Formula
    chosen: Chosen | None
    ranked: Ranked
    degraded: Degradations
    rules: AppliedRules | None = None
    computation: Computation = field(default_factory=Computation)
