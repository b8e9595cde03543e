"""The counters of a feature schema: numbers over recent events, updated by `/events` and `/impressions`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from features.counters import DAY_S, ENTRY_BYTES, IMPRESSION, MOST_BUCKETS, MOST_KEY_BYTES, cell_layouts
from features.errors import SchemaError
from features.schemas.strict_model import Name, SchemaPart

Action = Annotated[str, Field(min_length=1, max_length=256)]
Actions = Annotated[tuple[Action, ...], Field(min_length=1, max_length=32)]
Seconds = Annotated[int, Field(ge=1, le=90 * DAY_S)]
HalfLife = Annotated[float | None, Field(gt=0, le=90 * DAY_S)]


class RatePrior(SchemaPart):
    """A rate of `x` among `n` is (a + x) / (b + n)."""

    a: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    b: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Counter(SchemaPart):
    """What every counter has: the key that it is kept by, the actions that it counts, and its window.

    `by: user` with an `item_feature` counts a user's events on items with the candidate's value of that feature. The
    values of a feature share `values` cells per user; two values of one cell are counted together. The action
    `impression` counts the items of `/impressions`, any other one the events of `/events`.
    """

    name: Name
    by: Literal["item", "user", "scene"]
    item_feature: Name | None = None
    values: Annotated[int, Field(ge=1, le=1024)] = 256
    actions: Actions
    window_s: Seconds
    transform: Literal["none", "log1p"] = "none"
    bins: Annotated[int, Field(ge=0, le=1024)] = 0


class _Bucketed(_Counter):
    """A counter over buckets of `bucket_s` seconds; the present bucket is one of the window's."""

    bucket_s: Seconds


class CountCounter(_Bucketed):
    """The number of events. With `half_life_s`, an event in a bucket weighs 2^(-age of the bucket / half life)."""

    statistic: Literal["count"]
    half_life_s: HalfLife = None


class RateCounter(_Bucketed):
    """The number of events with `actions` among those with `per`, with a prior; weighted as a count is."""

    statistic: Literal["rate"]
    per: Actions = (IMPRESSION,)
    prior: RatePrior
    half_life_s: HalfLife = None


class DistinctCounter(_Bucketed):
    """How many different users, items or values of an item feature (`of`) the events have: exact, `most` at most."""

    statistic: Literal["distinct"]
    of: Name
    most: Annotated[int, Field(ge=1, le=64)] = 32


class TimeSinceCounter(_Counter):
    """The seconds since the last event; missing if none is in the window."""

    statistic: Literal["time_since"]


Counter = Annotated[CountCounter | RateCounter | DistinctCounter | TimeSinceCounter, Field(discriminator="statistic")]


def check_counters(counters: Sequence[Counter], item_features: Mapping[str, str]) -> None:
    """Check counters against each other and the schema's item features `{name: type}`. Raises SchemaError."""
    for place, counter in enumerate(counters):
        _check_item_feature(counter, ("counters", place), item_features)
        if not isinstance(counter, TimeSinceCounter):
            _check_window(counter, ("counters", place))
    sizes: dict[str, int] = {}
    for layout in cell_layouts(counters):
        cells = layout.values if layout.item_feature else 1
        sizes[layout.by] = sizes.get(layout.by, 0) + layout.entries * ENTRY_BYTES * cells
        most = MOST_KEY_BYTES[layout.by]
        if sizes[layout.by] > most:
            first = counters[layout.places[0]]
            field = f"counters.{first.name}.{'values' if layout.item_feature else 'window_s'}"
            problem = f"{field}: the counters of one {layout.by} take up to {sizes[layout.by]:,} bytes"
            advice = f"{most:,} are allowed; use fewer values, fewer buckets or longer ones"
            raise SchemaError(f"{problem}, {advice}", ("counters", layout.places[0]), first.name)


def _check_item_feature(counter: Counter, location: tuple[str | int, ...], item_features: Mapping[str, str]) -> None:
    at = f"counters.{counter.name}"
    known = [name for name, kind in item_features.items() if kind == "categorical"]
    if counter.item_feature is not None and counter.by != "user":
        problem = f"{at}.item_feature: only a counter by user is kept by an item feature too, not one by {counter.by}"
        raise SchemaError(problem, (*location, "item_feature"), counter.item_feature)
    if counter.item_feature is not None and counter.item_feature not in known:
        problem = f"{at}.item_feature: '{counter.item_feature}' is not a categorical item feature"
        raise SchemaError(problem, (*location, "item_feature"), counter.item_feature, known)
    if isinstance(counter, DistinctCounter) and counter.of not in ("user", "item", *known):
        problem = f"{at}.of: '{counter.of}' is not 'user', 'item' or a categorical item feature"
        raise SchemaError(problem, (*location, "of"), counter.of, ["user", "item", *known])


def _check_window(counter: _Bucketed, location: tuple[str | int, ...]) -> None:
    at = f"counters.{counter.name}.window_s"
    if counter.window_s % counter.bucket_s:
        problem = f"{at}: {counter.window_s} s is no multiple of bucket_s, {counter.bucket_s} s"
        raise SchemaError(problem, (*location, "window_s"), counter.name)
    if counter.window_s > MOST_BUCKETS * counter.bucket_s:
        shortest = -(-counter.window_s // MOST_BUCKETS)
        problem = f"{at}: {counter.window_s} s exceeds its buckets, {MOST_BUCKETS} of {counter.bucket_s} s at most"
        raise SchemaError(f"{problem}; bucket_s must be {shortest} or more", (*location, "window_s"), counter.name)


def stored_counters(counters: Sequence[Counter]) -> list[dict[str, Any]]:
    """What decides the meaning of counters, for the schema's fingerprint: versions of one fingerprint share numbers."""
    return [counter.model_dump(exclude={"transform", "bins"}) for counter in counters]
