"""Defines the rules that operators write, one class per type, and checks that they do not contradict one another."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Strict, model_validator

from service.fusion.expression import ExpressionError, parse
from service.rules.definition.conditions import Condition, Name, StrictModel, Value

MAX_RULES = 50
MAX_POSITION = 1000
SCORE = "score"
ItemId = Annotated[str, Strict(), Field(min_length=1, max_length=256)]
Position = Annotated[int, Strict(), Field(ge=1, le=MAX_POSITION)]
Count = Annotated[int, Strict(), Field(ge=1, le=MAX_POSITION)]
Days = Annotated[float, Field(gt=0, le=365)]


class _ByIdOrCondition(StrictModel):
    item_ids: Annotated[tuple[ItemId, ...] | None, Field(min_length=1, max_length=10_000)] = None
    when: Condition | None = None

    @model_validator(mode="after")
    def _check(self) -> "_ByIdOrCondition":
        if (self.item_ids is None) == (self.when is None):
            raise ValueError("give either item_ids or when")
        return self


class Block(_ByIdOrCondition):
    """Removes candidates."""

    type: Literal["block"]


class Allow(_ByIdOrCondition):
    """Removes every other candidate."""

    type: Literal["allow"]


class Seen(StrictModel):
    """Removes what the user was shown or did something with in the last `within_days`.

    Relaxed if nothing would remain.
    """

    type: Literal["seen"]
    within_days: Days


class Cap(StrictModel):
    """Removes what the user was shown `at_most` times in the last `within_days`. Relaxed if nothing would remain."""

    type: Literal["cap"]
    at_most: Count
    within_days: Days


class Boost(StrictModel):
    """Replaces the ranking score of the candidates that match `when` (of all without it) by `formula`.

    The formula reads `score`, the task scores and numeric features, in the language of fusion formulas.
    """

    type: Literal["boost"]
    formula: Annotated[str, Field(max_length=1000)]
    when: Condition | None = None

    @model_validator(mode="after")
    def _check(self) -> "Boost":
        try:
            parse(self.formula)
        except ExpressionError as error:
            raise ValueError(f"formula: {error}") from None
        return self


class GraphOutput(StrictModel):
    """An output of the graph that has a vector per candidate, by its name in the manifest."""

    output: Name


class Diversity(StrictModel):
    """Orders the first `depth` candidates so that neighbours differ, by item vectors: numeric features of the item, or
    an output of the graph.

    `weight` is what difference counts: 0 keeps the order of the scores, 1 looks at difference alone. Methods: `mmr`
    (Carbonell and Goldstein, SIGIR 1998), `dpp` (greedy MAP inference, Chen et al., NeurIPS 2018), `ssd` (sliding
    spectrum decomposition, Huang et al., KDD 2021).
    """

    type: Literal["diversity"]
    method: Literal["mmr", "dpp", "ssd"]
    weight: Annotated[float, Field(ge=0, le=1)]
    vector: Name | Annotated[tuple[Name, ...], Field(min_length=1, max_length=256)] | GraphOutput
    depth: Annotated[int, Strict(), Field(ge=2, le=MAX_POSITION)] = 50
    window: Annotated[int, Strict(), Field(ge=2, le=100)] = 10


class Pin(StrictModel):
    """Puts an item, or the best candidate that matches `when`, at a position (from 1).

    Without such a candidate it does nothing.
    """

    type: Literal["pin"]
    position: Position
    item_id: ItemId | None = None
    when: Condition | None = None

    @model_validator(mode="after")
    def _check(self) -> "Pin":
        if (self.item_id is None) == (self.when is None):
            raise ValueError("give either item_id or when")
        return self


class Quota(StrictModel):
    """Bounds how many candidates share a value of a feature (each value by itself, or only those in `one_of`).

    `at_most` with `window`: in any `window` neighbours. `at_most` or `share` with `first`: in the first `first`
    positions. `at_least` with `first`: at least that many of `one_of` there, or all of them if there are fewer; if a
    list is shorter than `first`, its next pages count too. A missing value is never counted.
    """

    type: Literal["quota"]
    feature: Name
    one_of: Annotated[tuple[Value, ...] | None, Field(min_length=1, max_length=1000)] = None
    at_most: Annotated[int, Strict(), Field(ge=0, le=MAX_POSITION)] | None = None
    at_least: Count | None = None
    share: Annotated[float, Field(ge=0, lt=1)] | None = None
    window: Annotated[int, Strict(), Field(ge=2, le=100)] | None = None
    first: Count | None = None

    @model_validator(mode="after")
    def _check(self) -> "Quota":
        bounds = [name for name in ("at_most", "at_least", "share") if getattr(self, name) is not None]
        if len(bounds) != 1:
            raise ValueError("give one of at_most, at_least, share")
        if (self.window is None) == (self.first is None):
            raise ValueError("give either window or first")
        if self.window is not None and self.at_most is None:
            raise ValueError("a window takes at_most")
        if self.at_least is not None and self.one_of is None:
            raise ValueError("at_least takes one_of: the values that are counted")
        if self.at_least is not None and self.first is not None and self.at_least > self.first:
            raise ValueError("at_least is above first: it can never hold")
        return self


class Spread(StrictModel):
    """Keeps two candidates with the same value of a feature at least `distance` positions apart."""

    type: Literal["spread"]
    feature: Name
    distance: Annotated[int, Strict(), Field(ge=2, le=100)]


class Interleave(StrictModel):
    """Takes candidates from their sources in turn; the pattern repeats.

    A source without candidates left gives its place to any other.
    """

    type: Literal["interleave"]
    pattern: Annotated[tuple[Name, ...], Field(min_length=2, max_length=100)]


Rule = Annotated[
    Block | Allow | Seen | Cap | Boost | Diversity | Pin | Quota | Spread | Interleave, Field(discriminator="type")
]


def contradiction_of(rules: Sequence[Rule]) -> str | None:
    """Why these rules can never hold together, as far as that needs no candidates;

    None if nothing speaks against it.
    """
    pins = [(place, rule) for place, rule in enumerate(rules) if isinstance(rule, Pin)]
    if twice := _twice(rule.position for _, rule in pins):
        return f"two pins to position {twice}"
    if twice := _twice(rule.item_id for _, rule in pins if rule.item_id is not None):
        return f"item '{twice}' is pinned to two positions"
    blocked = {item_id for rule in rules if isinstance(rule, Block) for item_id in rule.item_ids or ()}
    allowed = [set(rule.item_ids) for rule in rules if isinstance(rule, Allow) and rule.item_ids is not None]
    for place, rule in pins:
        if rule.item_id in blocked:
            return f"[{place}]: item '{rule.item_id}' is pinned and blocked"
        if rule.item_id is not None and any(rule.item_id not in ids for ids in allowed):
            return f"[{place}]: item '{rule.item_id}' is pinned and not allowed"
    if allowed and not set.intersection(*allowed) - blocked:
        return "no item is both allowed and not blocked: every list would be empty"
    if sum(isinstance(rule, Diversity) for rule in rules) > 1:
        return "two rules of type diversity"
    if sum(isinstance(rule, Interleave) for rule in rules) > 1:
        return "two rules of type interleave"
    return None


def _twice(values: Iterable[object]) -> object | None:
    """A value that occurs twice, or None."""
    known: set[object] = set()
    for value in values:
        if value in known:
            return value
        known.add(value)
    return None


def _without_contradiction(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    contradiction = contradiction_of(rules)
    if contradiction is not None:
        raise ValueError(contradiction)
    return rules


RuleList = Annotated[tuple[Rule, ...], Field(max_length=MAX_RULES), AfterValidator(_without_contradiction)]
