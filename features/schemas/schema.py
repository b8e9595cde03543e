"""The feature schema: the features of users, items, contexts and behaviours."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, model_validator

from features.errors import FeatureError, SchemaError
from features.schemas.counter_schema import Counter, check_counters, stored_counters
from features.schemas.derived_schema import OF_REQUEST_TIME, Derived, check_derived, operands, type_of
from features.schemas.strict_model import Name, Required, SchemaPart, at_default
from features.schemas.text_parts import TextPart

ACTION = "action"
SCENE = "scene"
COUNTER = "counter"  # the group of the counters' numbers
DERIVED = "derived"  # the group of the derived features


class Categorical(SchemaPart):
    """One string or integer. Features that name the same `vocabulary` share keys and embeddings.

    With `text`, a part of the value is the category, in tables, the store and requests alike.
    """

    name: Name
    type: Literal["categorical"]
    vocabulary: Name | None = None
    text: Annotated[TextPart | None, Field(exclude_if=at_default)] = None
    required: Required = False

    @property
    def vocabulary_name(self) -> str:
        return self.vocabulary or self.name

    @property
    def part_of(self) -> Callable[[str], str] | None:
        """Cuts the category out of a value's text; None if it is the whole text."""
        return None if self.text is None else self.text.of


class MultiCategorical(SchemaPart):
    """At most `max_values` strings or integers, pooled with a mask; values beyond the first `max_values` are cut."""

    name: Name
    type: Literal["multi_categorical"]
    vocabulary: Name | None = None
    max_values: Annotated[int, Field(ge=1, le=64)]
    pooling: Literal["mean", "sum"] = "mean"
    required: Required = False

    @property
    def vocabulary_name(self) -> str:
        return self.vocabulary or self.name


class Numeric(SchemaPart):
    """A float32 that may be missing. The graph applies signed log1p (optional), standardisation and tanh.

    With `bins` > 0, the value's quantile bin has an embedding too, with at most that many bins; for numbers whose
    effect jumps. With `within_request` (only for item features), the difference from the mean of the request's
    candidates and the rank among them are inputs too.
    """

    name: Name
    type: Literal["numeric"]
    transform: Literal["none", "log1p"] = "none"
    bins: Annotated[int, Field(ge=0, le=1024)] = 0
    within_request: Annotated[bool, Field(exclude_if=at_default)] = False
    required: Required = False


class Vector(SchemaPart):
    """A vector of `width` float32 numbers, such as the embedding of a text or an image; it may be missing as a whole.

    The graph takes the numbers as they are, and a 1; a missing vector is zeros, and a 0. With `project`, a linear layer
    without a bias maps these `width` + 1 numbers to `project` numbers.
    """

    name: Name
    type: Literal["vector"]
    width: Annotated[int, Field(ge=1, le=4096)]
    project: Annotated[int | None, Field(ge=1, le=1024, exclude_if=at_default)] = None
    required: Required = False


Feature = Annotated[Categorical | MultiCategorical | Numeric | Vector, Field(discriminator="type")]


class BehaviourSchema(SchemaPart):
    """The behaviour sequence: each behaviour has some of the item's own features, an action, a scene and a time.

    `scene_vocabulary` lets the scene share embeddings with a context feature. A behaviour that is younger than `lag_s`
    seconds counts neither in training nor in serving.
    """

    max_length: Annotated[int, Field(ge=1, le=1000)] = 50
    item_features: tuple[Name, ...]
    action_vocabulary: Name = ACTION
    scene_vocabulary: Name = SCENE
    lag_s: Annotated[float, Field(ge=0, le=31_536_000, exclude_if=at_default)] = 0.0


class FeatureSchema(SchemaPart):
    """All features of a model, grouped by the entity they belong to.

    `candidate` features are a candidate's own values at request time, such as its price now or its distance: `/rank`
    brings them with the candidate, and the table of impressions has them as columns. No store holds them.

    `user_id_feature` and `item_id_feature` name the categorical feature that holds the entity's own id, so that the id
    of an entity without a row is still an input. `counters` are numbers that `/events` and `/impressions` keep up to
    date. `derived` features are computed in the graph from the others; each may read those listed before it.
    """

    user: tuple[Feature, ...] = ()
    item: tuple[Feature, ...]
    context: tuple[Feature, ...] = ()
    candidate: Annotated[tuple[Feature, ...], Field(exclude_if=at_default)] = ()
    behaviour: BehaviourSchema | None = None
    user_id_feature: Name | None = None
    item_id_feature: Name | None = None
    counters: Annotated[tuple[Counter, ...], Field(exclude_if=at_default, max_length=64)] = ()
    derived: Annotated[tuple[Derived, ...], Field(exclude_if=at_default, max_length=256)] = ()

    @model_validator(mode="after")
    def _check(self) -> "FeatureSchema":
        names = [f.name for f in (*self.all_features, *self.counters)]
        for name in names:
            if names.count(name) > 1:
                problem = f"feature '{name}' is defined twice; names are unique over all groups"
                raise SchemaError(problem, (), name)
        if not self.item:
            raise SchemaError("item: at least one item feature is needed", ("item",))
        for feature in self.user + self.context + self.candidate:
            if isinstance(feature, Numeric) and feature.within_request:
                problem = f"feature '{feature.name}' is no item feature; only item features have 'within_request'"
                raise SchemaError(problem, (), feature.name)
        self._check_id("user_id_feature", self.user_id_feature, self.user)
        self._check_id("item_id_feature", self.item_id_feature, self.item)
        if self.behaviour:
            known = {f.name for f in self.item}
            for name in self.behaviour.item_features:
                if name not in known:
                    problem = f"behaviour.item_features: '{name}' is not an item feature"
                    raise SchemaError(problem, ("behaviour", "item_features"), name, sorted(known))
        check_counters(self.counters, {f.name: f.type for f in self.item})
        check_derived(self.derived, {f.name: f.type for f in (*self.all_features, *self.counter_numbers)})
        return self

    @staticmethod
    def _check_id(field: str, name: str | None, features: Iterable[Feature]) -> None:
        if name is not None and not any(f.name == name and f.type == "categorical" for f in features):
            raise SchemaError(f"{field}: '{name}' is not a categorical feature of that entity", (field,), name)

    @property
    def all_features(self) -> tuple[Feature, ...]:
        return self.user + self.item + self.context + self.candidate

    def group(self, name: str) -> tuple[Feature, ...]:
        """Features of `user`, `item`, `context` or `candidate`, the numbers of the `counter` features, or `derived`."""
        groups: Mapping[str, tuple[Feature, ...]] = {
            "user": self.user,
            "item": self.item,
            "context": self.context,
            "candidate": self.candidate,
        }
        if name == COUNTER:
            return self.counter_numbers
        return self.derived_features if name == DERIVED else groups[name]

    @cached_property
    def counter_numbers(self) -> tuple[Feature, ...]:
        """The counters as numeric features, in the schema's order."""
        return tuple(Numeric(name=c.name, type="numeric", transform=c.transform, bins=c.bins) for c in self.counters)

    @cached_property
    def derived_features(self) -> tuple[Feature, ...]:
        """The derived features as features of their type, in the schema's order."""
        known = {f.name: f for f in (*self.all_features, *self.counter_numbers)}
        for derived in self.derived:
            known[derived.name] = _feature_of(derived, known)
        return tuple(known[derived.name] for derived in self.derived)

    @property
    def reads_request_time(self) -> bool:
        """Whether the graph has the input `request_time`: for the age of behaviours, or for a derived feature."""
        return self.behaviour is not None or any(derived.type in OF_REQUEST_TIME for derived in self.derived)

    @cached_property
    def behaviour_item_features(self) -> tuple[Feature, ...]:
        if self.behaviour is None:
            return ()
        by_name = {f.name: f for f in self.item}
        return tuple(by_name[n] for n in self.behaviour.item_features)

    def refuse_columns(self, forbidden: Mapping[str, str]) -> None:
        """Refuse columns that must never be inputs, such as labels and positions; `columns` is `{column: role}`.

        Raises FeatureError that names the feature and its role.
        """
        for feature in self.all_features:
            if feature.name in forbidden:
                role = forbidden[feature.name]
                raise FeatureError(
                    feature.name, f"this column is {role} and cannot be an ordinary feature; remove it from 'features'"
                )

    def row_meaning(self, group: str) -> list[dict[str, object]]:
        """Describe the features of a group as far as they change its packed row."""
        exclude = {"pooling", "transform", "bins", "within_request", "required", "project"}
        return [
            feature.model_dump(exclude=exclude) | {"vocabulary": getattr(feature, "vocabulary_name", None)}
            for feature in self.group(group)
        ]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that depend on the meaning of a stored row: names, types, vocabularies, widths, order.

        Settings that only affect the graph (pooling, transform, bins, number of behaviours) are left out, so that
        models that differ only in these share one set of rows in the store.
        """
        rows = {group: self.row_meaning(group) for group in ("user", "item")}
        behaviour = None if self.behaviour is None else self.behaviour.model_dump(exclude={"max_length", "lag_s"})
        described = {
            "format": 1,
            "rows": rows,
            "behaviour": behaviour,
            "ids": [self.user_id_feature, self.item_id_feature],
        }
        if self.counters:
            described["counters"] = stored_counters(self.counters)
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _feature_of(derived: Derived, known: Mapping[str, Feature]) -> Feature:
    kind = type_of(derived, {name: feature.type for name, feature in known.items()})
    if kind == "numeric":
        options = derived.model_dump(include={"transform", "bins"})
        return Numeric(name=derived.name, type="numeric", **options)
    for _, name in operands(derived):
        feature = known[name]
        if isinstance(feature, MultiCategorical):  # the cross of a list is pooled as the list is
            return feature.model_copy(update={"name": derived.name, "vocabulary": None, "required": False})
    return Categorical(name=derived.name, type="categorical")
