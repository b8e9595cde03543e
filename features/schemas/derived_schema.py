"""The derived features of a schema: numbers and categories that the graph computes from other features.

No row and no table has them. Training computes them once per impression with the code that becomes the graph.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from features.errors import SchemaError
from features.keys import key_of
from features.schemas.strict_model import Name, SchemaPart

CATEGORICAL = "categorical"
MULTI_CATEGORICAL = "multi_categorical"
NUMERIC = "numeric"
SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

UtcOffset = Annotated[int, Field(ge=-14 * 60, le=14 * 60)]
Edge = Annotated[float, Field(allow_inf_nan=False, ge=-3.4e38, le=3.4e38)]


class _DerivedNumber(SchemaPart):
    """A derived number; `transform` and `bins` as for a numeric feature."""

    name: Name
    transform: Literal["none", "log1p"] = "none"
    bins: Annotated[int, Field(ge=0, le=1024)] = 0


class RatioFeature(_DerivedNumber):
    """The number `of` divided by the number `per`. It is missing if either is missing, or if `per` is 0."""

    type: Literal["ratio"]
    of: Name
    per: Name


class DifferenceFeature(_DerivedNumber):
    """The number `of` minus the number `minus`. It is missing if either is missing."""

    type: Literal["difference"]
    of: Name
    minus: Name


class TimeSinceFeature(_DerivedNumber):
    """The seconds from the time `of` to the request; negative if the request is earlier.

    `of` is a number: the time since 1970 (UTC) in `unit`. A number has 24 bits, so that a time of today is exact to one
    and a half minutes in any unit; whole hours and days are exact in those units.
    """

    type: Literal["time_since"]
    of: Name
    unit: Literal["ms", "s", "min", "h", "d"] = "s"


class LengthFeature(SchemaPart):
    """The number of values that the list `of` has, at most its `max_values`. It is missing if the list is empty."""

    name: Name
    type: Literal["length"]
    of: Name


class BucketFeature(SchemaPart):
    """The category of a number: how many of the ascending `edges` are not above it. Missing if the number is."""

    name: Name
    type: Literal["bucket"]
    of: Name
    edges: Annotated[tuple[Edge, ...], Field(min_length=1, max_length=1024)]


class HourFeature(SchemaPart):
    """The hour of the request, 0 to 23, as a category: in UTC, or that many minutes ahead of it."""

    name: Name
    type: Literal["hour"]
    utc_offset_min: UtcOffset = 0


class WeekdayFeature(SchemaPart):
    """The weekday of the request, Monday = 0 to Sunday = 6, as a category: in UTC, or that many minutes ahead of it."""

    name: Name
    type: Literal["weekday"]
    utc_offset_min: UtcOffset = 0


class CrossFeature(SchemaPart):
    """The combination of two to four categories, as one category. It is missing if one of them is missing.

    One of them may be a list: the cross is then a list too, each of its values combined with the other categories.
    """

    name: Name
    type: Literal["cross"]
    of: Annotated[tuple[Name, ...], Field(min_length=2, max_length=4)]

    @property
    def multipliers(self) -> tuple[int, ...]:
        """An odd 64-bit number for each category.

        The key of a cross is the sum of multiplier times key, modulo 2^64: multilinear hashing (Lemire and Kaser,
        "Strongly universal string hashing is fast", The Computer Journal 57, 2014) without the final shift, since keys
        are hashed already. An odd multiplier keeps all bits of its key.
        """
        return tuple(key_of(self.name, str(place)) | 1 for place in range(len(self.of)))


Derived = Annotated[
    RatioFeature
    | DifferenceFeature
    | TimeSinceFeature
    | LengthFeature
    | BucketFeature
    | HourFeature
    | WeekdayFeature
    | CrossFeature,
    Field(discriminator="type"),
]

# What a derivation reads: its options that name features, and the types that these may have.
READS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ratio": (("of", "per"), (NUMERIC,)),
    "difference": (("of", "minus"), (NUMERIC,)),
    "time_since": (("of",), (NUMERIC,)),
    "length": (("of",), (MULTI_CATEGORICAL,)),
    "bucket": (("of",), (NUMERIC,)),
    "hour": ((), ()),
    "weekday": ((), ()),
    "cross": (("of",), (CATEGORICAL, MULTI_CATEGORICAL)),
}
OF_REQUEST_TIME = frozenset({"time_since", "hour", "weekday"})


def operands(feature: Derived) -> list[tuple[str, str]]:
    """The features that a derived one reads: `(option, name)` each."""
    named = [(option, getattr(feature, option)) for option in READS[feature.type][0]]
    return [(option, name) for option, value in named for name in ((value,) if isinstance(value, str) else value)]


def type_of(feature: Derived, types: Mapping[str, str]) -> str:
    """The type of the derived feature's value, given the types of what it reads."""
    if isinstance(feature, _DerivedNumber | LengthFeature):
        return NUMERIC
    return MULTI_CATEGORICAL if MULTI_CATEGORICAL in _types_read(feature, types) else CATEGORICAL


def _types_read(feature: Derived, types: Mapping[str, str]) -> list[str]:
    return [types[name] for _, name in operands(feature)]


def check_derived(derived: Sequence[Derived], types: Mapping[str, str]) -> None:
    """Check derived features against the schema's other features `{name: type}`. Raises SchemaError."""
    known = dict(types)
    every = [feature.name for feature in derived]
    for place, feature in enumerate(derived):
        location = ("derived", place)
        if feature.name in known:
            problem = f"derived.{feature.name}: a feature '{feature.name}' exists already; names are unique"
            raise SchemaError(problem, (*location, "name"), feature.name)
        for option, name in operands(feature):
            _check_operand(feature, (*location, option), name, known, every)
        _check_own(feature, location, known)
        known[feature.name] = type_of(feature, known)


def _check_operand(
    feature: Derived, location: tuple[str | int, ...], name: str, known: Mapping[str, str], derived: Sequence[str]
) -> None:
    at = f"derived.{feature.name}.{location[-1]}"
    allowed = READS[feature.type][1]
    if name == feature.name:
        raise SchemaError(f"{at}: '{name}' would be computed from itself", location, name)
    if name not in known and name in derived:
        problem = f"{at}: '{name}' is listed after '{feature.name}'; a derived feature reads only those before it"
        raise SchemaError(f"{problem}, so that none is computed from itself", location, name)
    if name not in known:
        suitable = [each for each, kind in known.items() if kind in allowed]
        raise SchemaError(f"{at}: there is no feature '{name}'", location, name, suitable)
    if known[name] not in allowed:
        problem = f"{at}: '{name}' is {known[name]}; a {feature.type} reads {' or '.join(allowed)} features"
        raise SchemaError(problem, location, name)


def _check_own(feature: Derived, location: tuple[str | int, ...], known: Mapping[str, str]) -> None:
    """Check what one option alone does not show."""
    if isinstance(feature, BucketFeature):
        edges = np.array(feature.edges, np.float32)  # as the graph compares them
        if (edges[1:] <= edges[:-1]).any():
            raise SchemaError(f"derived.{feature.name}.edges: they must ascend", (*location, "edges"))
    if isinstance(feature, CrossFeature):
        if len(set(feature.of)) < len(feature.of):
            raise SchemaError(f"derived.{feature.name}.of: a feature occurs twice", (*location, "of"))
        if _types_read(feature, known).count(MULTI_CATEGORICAL) > 1:
            problem = f"derived.{feature.name}.of: at most one list can be crossed"
            raise SchemaError(problem, (*location, "of"))
