"""Binds rules to one model: looks up names as columns of the packed rows, parses formulas, and refuses fields that do
not fit.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from features import MISSING_KEY, Numeric, RowLayout, Vector, key_of
from features.nearest import nearest
from service.fusion.expression import Expression, parse
from service.rules.candidates import CandidateList, is_in
from service.rules.definition.conditions import Condition, Value
from service.rules.definition.errors import RulesError
from service.rules.definition.rule_sets import RuleSets
from service.rules.definition.rules import SCORE, Boost, Cap, Diversity, GraphOutput, Quota, Rule, Seen, Spread


@dataclass(frozen=True, eq=False)
class BoundRules:
    """The rules of one scene, bound to what rules read of a model: the layout of candidates, tasks and outputs.

    `formulas` are those of the boosts by position in the list, `item_ids` those of the filters; `keys` are the keys of
    listed values, by feature and values.
    """

    rules: Sequence[Rule]
    layout: RowLayout
    tasks: tuple[str, ...]
    formulas: Mapping[int, Expression] = field(default_factory=dict)
    keys: Mapping[tuple[str, tuple[Value, ...]], np.ndarray] = field(default_factory=dict)
    item_ids: Mapping[int, frozenset[str]] = field(default_factory=dict)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of the graph that the rules read, without duplicates."""
        vectors = [rule.vector for rule in self.rules if isinstance(rule, Diversity)]
        return tuple(dict.fromkeys(vector.output for vector in vectors if isinstance(vector, GraphOutput)))

    @cached_property
    def reads_model(self) -> bool:
        """Whether a rule reads what the model computes, so that every candidate needs the same model's values."""
        names = {name for formula in self.formulas.values() for name in formula.names}
        return bool(self.outputs) or not names.isdisjoint(self.tasks)

    @cached_property
    def features(self) -> frozenset[str]:
        """The names of the features that the rules read; some names may be those of tasks."""
        names: set[str] = set()
        for place, rule in enumerate(self.rules):
            names.update(features_of(rule))
            if place in self.formulas:
                names.update(self.formulas[place].names)
        return frozenset(names)

    @cached_property
    def exposure_days(self) -> float:
        """The number of days for which the rules need the user's exposures; 0 if they need none."""
        return max((rule.within_days for rule in self.rules if isinstance(rule, (Seen, Cap))), default=0.0)

    def first(self, count: int) -> "BoundRules":
        """Return the first rules of the list only."""
        return replace(self, rules=self.rules[:count])

    def label(self, place: int) -> str:
        """The name of one rule in answers and metrics: its place in the list and its type, as `1:spread`."""
        return f"{place}:{self.rules[place].type}"

    def matches(self, condition: Condition, candidates: CandidateList) -> np.ndarray:
        """Which candidates a condition means, bool `[C]`."""
        if condition.one_of is not None:
            columns = candidates.keys[:, self.layout.key_columns[condition.feature]]
            return np.asarray(is_in(columns, self.keys[condition.feature, condition.one_of]).any(axis=1))
        values = candidates.numerics[:, self.layout.numeric_columns[condition.feature]]
        matching = ~np.isnan(values)
        if condition.at_least is not None:
            matching &= values >= condition.at_least
        if condition.below is not None:
            matching &= values < condition.below
        return np.asarray(matching)

    def values_of(
        self, feature: str, one_of: tuple[Value, ...] | None, candidates: CandidateList
    ) -> list[tuple[int, ...]]:
        """The counted values of each candidate: its keys, or those of them that are in `one_of`; none where the feature
        is missing.
        """
        columns = candidates.keys[:, self.layout.key_columns[feature]]
        if one_of is not None:
            columns = np.where(is_in(columns, self.keys[feature, one_of]), columns, MISSING_KEY)
        # MISSING_KEY is 0, so that what is missing is also what is false.
        if columns.shape[1] == 1:
            return [(key,) if key else () for key in columns[:, 0].tolist()]
        return [tuple(filter(None, row)) for row in columns.tolist()]

    def boosted(self, place: int, candidates: CandidateList, scores: np.ndarray) -> np.ndarray:
        """All scores after the boost at this place of the list, float64 `[C]`.

        A score stays where the formula gives no finite number, as where it reads a feature that the item lacks.
        """
        formula = self.formulas[place]
        values: dict[str, np.ndarray] = {SCORE: scores}
        for name in formula.names:
            if name in self.tasks:
                values[name] = candidates.predictions[self.tasks.index(name)].astype(np.float64)
            elif name != SCORE:
                values[name] = candidates.numerics[:, self.layout.numeric_columns[name]].astype(np.float64)
        computed = formula.compute(values, len(candidates))
        changes = np.isfinite(computed)
        rule = self.rules[place]
        if isinstance(rule, Boost) and rule.when is not None:
            changes &= self.matches(rule.when, candidates)
        return np.where(changes, computed, scores)

    def vectors(self, rule: Diversity, candidates: CandidateList) -> np.ndarray:
        """The item vectors of a diversity rule, float64 `[C, D]`; zeros if the model failed to give them."""
        if isinstance(rule.vector, GraphOutput):
            output = candidates.outputs.get(rule.vector.output)
            return np.zeros((len(candidates), 1)) if output is None else output.astype(np.float64)
        names = (rule.vector,) if isinstance(rule.vector, str) else rule.vector
        return candidates.numerics[:, self.layout.number_columns(names)].astype(np.float64)


def bind_rules(
    rule_sets: RuleSets, layout: RowLayout, tasks: tuple[str, ...], outputs: Sequence[str] = ()
) -> dict[str, BoundRules]:
    """Every scene's rules bound to a model. Raises RulesError with the field and the nearest name."""
    bound = {}
    for scene, rules in rule_sets.rules.items():
        for place, rule in enumerate(rules):
            _check(f"rules.{scene}[{place}]", rule, layout, tasks, outputs)
        formulas = {place: parse(rule.formula) for place, rule in enumerate(rules) if isinstance(rule, Boost)}
        keys = {(name, values): _keys(layout, name, values) for name, values in _listed_values(rules)}
        item_ids = {place: frozenset(getattr(rule, "item_ids", None) or ()) for place, rule in enumerate(rules)}
        bound[scene] = BoundRules(rules, layout, tasks, formulas, keys, item_ids)
    return bound


def features_of(rule: Rule) -> set[str]:
    """The names of the features that a rule reads, without those in its formula."""
    names: set[str] = set()
    condition = getattr(rule, "when", None)
    if condition is not None:
        names.add(condition.feature)
    if isinstance(rule, (Quota, Spread)):
        names.add(rule.feature)
    if isinstance(rule, Diversity) and not isinstance(rule.vector, GraphOutput):
        names.update((rule.vector,) if isinstance(rule.vector, str) else rule.vector)
    return names


def _listed_values(rules: Sequence[Rule]) -> Iterator[tuple[str, tuple[Value, ...]]]:
    """Every feature and its `one_of` in the rules."""
    for rule in rules:
        condition = getattr(rule, "when", None)
        if condition is not None and condition.one_of is not None:
            yield condition.feature, condition.one_of
        if isinstance(rule, Quota) and rule.one_of is not None:
            yield rule.feature, rule.one_of


def _keys(layout: RowLayout, name: str, values: Sequence[Value]) -> np.ndarray:
    """The keys of a feature's values, sorted, int64 `[n]`."""
    feature = layout.feature(name)
    assert not isinstance(feature, Numeric | Vector)
    return np.sort(np.array([key_of(feature.vocabulary_name, value, name) for value in values], dtype=np.int64))


def _check(where: str, rule: Rule, layout: RowLayout, tasks: tuple[str, ...], outputs: Sequence[str]) -> None:
    condition = getattr(rule, "when", None)
    if condition is not None:
        numeric = condition.one_of is None
        _check_feature(f"{where}.when.feature", condition.feature, layout, numeric)
    if isinstance(rule, (Quota, Spread)):
        _check_feature(f"{where}.feature", rule.feature, layout, numeric=False)
    if isinstance(rule, Boost):
        known = [SCORE, *tasks, *layout.numeric_columns]
        for name, column in parse(rule.formula).names.items():
            if name not in known:
                message = f"column {column}: unknown name '{name}'{nearest(name, known)}"
                raise RulesError(message, f"{where}.formula")
    if isinstance(rule, Diversity):
        _check_vector(f"{where}.vector", rule.vector, layout, outputs)


def _check_vector(
    where: str, vector: str | tuple[str, ...] | GraphOutput, layout: RowLayout, outputs: Sequence[str]
) -> None:
    if isinstance(vector, GraphOutput):
        if vector.output not in outputs:
            message = f"the model gives no item vector '{vector.output}'{nearest(vector.output, outputs)}"
            raise RulesError(message, f"{where}.output")
        return
    for name in (vector,) if isinstance(vector, str) else vector:
        if name in layout.numeric_columns or name in layout.vector_columns:
            continue
        if name in outputs:
            raise RulesError(f"'{name}' is an output of the model: write {{output: {name}}}", where)
        near = nearest(name, [*outputs, *layout.numeric_columns, *layout.vector_columns])
        raise RulesError(f"'{name}' is neither a vector of the model nor a numeric or vector feature{near}", where)


def _check_feature(where: str, name: str, layout: RowLayout, numeric: bool) -> None:
    known: Sequence[str] = list(layout.numeric_columns if numeric else layout.key_columns)
    if name in known:
        return
    kind = "numeric" if numeric else "categorical"
    if name in layout:
        raise RulesError(f"'{name}' is not a {kind} feature", where)
    raise RulesError(f"items have no {kind} feature '{name}'{nearest(name, known)}", where)
