"""The function of each derivation, in torch operations that ONNX Runtime computes to the same bits.

A function gets the derived feature's options, a reader of the features that it names, and the time of the request. A
number is float32 `[n]`, NaN if missing; a category is an int64 key `[n]`, or `[n, values]` of a list, MISSING_KEY if
missing. n is 1 where a value belongs to the user or the request, else the number of candidates.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from features import MISSING_KEY, key_of
from features.schemas.derived_schema import (
    SECONDS,
    BucketFeature,
    CrossFeature,
    DifferenceFeature,
    HourFeature,
    LengthFeature,
    RatioFeature,
    TimeSinceFeature,
    WeekdayFeature,
)
from features.times import UNKNOWN_MS

Read = Callable[[str], Tensor]

_LARGEST = torch.finfo(torch.float32).max
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_FIRST_WEEKDAY = 3  # 1 January 1970 was a Thursday


def _number(value: Tensor, missing: Tensor) -> Tensor:
    """A derived number: NaN where missing, and finite elsewhere, so that it has a mean and a deviation."""
    return torch.where(missing, torch.nan, value.clamp(-_LARGEST, _LARGEST))


def ratio(feature: RatioFeature, read: Read, time: Tensor) -> Tensor:
    """`of` / `per`; missing if `per` is 0."""
    of = read(feature.of)
    per = read(feature.per)
    return _number(of / per, torch.isnan(of) | torch.isnan(per) | (per == 0))


def difference(feature: DifferenceFeature, read: Read, time: Tensor) -> Tensor:
    """`of` - `minus`."""
    of = read(feature.of)
    minus = read(feature.minus)
    return _number(of - minus, torch.isnan(of) | torch.isnan(minus))


def time_since(feature: TimeSinceFeature, read: Read, time: Tensor) -> Tensor:
    """The request's time - `of` in seconds, in float64, since float32 holds today's seconds to two minutes."""
    of = read(feature.of)
    seconds = time.to(torch.float64) / 1000.0 - of.to(torch.float64) * SECONDS[feature.unit]
    return _number(seconds.to(torch.float32), torch.isnan(of) | (time == UNKNOWN_MS))


def length(feature: LengthFeature, read: Read, time: Tensor) -> Tensor:
    """The number of values of a list; a packed row does not tell an empty list from a missing one."""
    count = (read(feature.of) != MISSING_KEY).to(torch.int64).sum(-1)
    return _number(count.to(torch.float32), count == 0)


def bucket(feature: BucketFeature, read: Read, time: Tensor) -> Tensor:
    """The number of edges that are not above the number."""
    of = read(feature.of)
    edges = torch.tensor(feature.edges, dtype=torch.float32, device=of.device)
    place = (of.unsqueeze(-1) >= edges).to(torch.int64).sum(-1)
    return _category(feature.name, place, len(feature.edges) + 1, torch.isnan(of))


def hour(feature: HourFeature, read: Read, time: Tensor) -> Tensor:
    """The hour of the day."""
    of_day = _local(time, feature.utc_offset_min) % _DAY_MS
    return _category(feature.name, of_day // _HOUR_MS, 24, time == UNKNOWN_MS)


def weekday(feature: WeekdayFeature, read: Read, time: Tensor) -> Tensor:
    """The day of the week."""
    days = _local(time, feature.utc_offset_min) // _DAY_MS
    return _category(feature.name, (days + _FIRST_WEEKDAY) % 7, 7, time == UNKNOWN_MS)


def _local(time: Tensor, utc_offset_min: int) -> Tensor:
    """Milliseconds of the local clock plus one week, so that division never sees a negative number."""
    return time + (7 * _DAY_MS + utc_offset_min * 60_000)


def _category(name: str, value: Tensor, count: int, missing: Tensor) -> Tensor:
    """The key of a value 0 to `count` - 1, as `key_of` hashes it for a feature of that name."""
    keys_of = [MISSING_KEY, *(key_of(name, value) for value in range(count))]
    keys = torch.tensor(keys_of, dtype=torch.int64, device=value.device)
    return keys[torch.where(missing, 0, value + 1)]


def cross(feature: CrossFeature, read: Read, time: Tensor) -> Tensor:
    """The sum of multiplier times key, modulo 2^64 (`CrossFeature.multipliers` has the source).

    int64 products and sums wrap around in torch and in ONNX Runtime, as in numpy.
    """
    keys = [read(name) for name in feature.of]
    if any(of.dim() == 2 for of in keys):
        keys = [of if of.dim() == 2 else of.unsqueeze(-1) for of in keys]
    total, *others = (of * multiplier for of, multiplier in zip(keys, feature.multipliers, strict=True))
    missing, *also = (of == MISSING_KEY for of in keys)
    for product in others:
        total = total + product
    for one in also:
        missing = missing | one
    return torch.where(missing, MISSING_KEY, total)


# `Any`, because each function takes the options of its own type.
FUNCTIONS: Mapping[str, Callable[[Any, Read, Tensor], Tensor]] = {
    "ratio": ratio,
    "difference": difference,
    "time_since": time_since,
    "length": length,
    "bucket": bucket,
    "hour": hour,
    "weekday": weekday,
    "cross": cross,
}
