"""Packs the candidates' own features, which the request brings and no store holds, and assembles inputs with them."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import numpy as np

from features import Categorical, Feature, FeatureError, Numeric, RowLayout, Vector, key_of
from features.layouts import Layouts
from features.nearest import nearest
from service.errors import invalid
from service.ranking.inputs.assemble import Assembled, assemble, item_rows, pack_raw, put_own_features
from service.ranking.inputs.counter_numbers import put_counters
from service.ranking.query import Query
from service.store.base import StoredRows

FeaturesByPlace = Mapping[int, Mapping[str, object]]
SOURCE: Final = "source"
_ABSENT: Final = object()
_NOTHING: Final[Mapping[str, object]] = {}
_NUMBERS: Final = frozenset({int, float, type(None)})
_CATEGORIES: Final = frozenset({str, int, type(None)})
_LARGEST: Final = float(np.finfo(np.float32).max)
_PACKED_AT_ONCE = 1000


@dataclass(slots=True, eq=False)
class CandidateValues:
    """The values that a request gives with its candidates.

    `own_items` are values of item features by position, which replace stored ones. `rows` `[C]` are the packed rows of
    the candidate features, None if the schema has none; `missing` names those that some candidate lacks.
    """

    own_items: FeaturesByPlace
    rows: np.ndarray | None = None
    missing: frozenset[str] = frozenset()


async def own_values(layouts: Layouts, query: Query) -> CandidateValues:
    """Pack the values that candidates bring; other requests run between two parts of a long list."""
    for values in candidate_values(layouts, query.own_features, len(query.item_ids), query.sources):
        if values is not None:
            return values
        await asyncio.sleep(0)
    raise AssertionError("the values end with the result")


async def assembled_inputs(
    layouts: Layouts, stored: StoredRows | None, query: Query, values: CandidateValues, context: bytes, moment: int
) -> tuple[Assembled, float]:
    """Return the graph's inputs, and the seconds spent on assembling them."""
    started = perf_counter()
    paused = 0.0
    items = item_rows(layouts, stored, query.item_ids)
    if values.own_items:
        for _ in put_own_features(layouts.item, items, values.own_items):
            before = perf_counter()
            await asyncio.sleep(0)
            paused += perf_counter() - before
    assembled = assemble(layouts, stored, items, query.user_id, context, moment, values.rows)
    put_counters(layouts, assembled.inputs, stored, query.options.scene, moment)
    return assembled, perf_counter() - started - paused


def candidate_values(
    layouts: Layouts, features: FeaturesByPlace, candidates: int, sources: Sequence[str | None] | None = None
) -> Iterator[CandidateValues | None]:
    """Yield None after some values, so that the caller can let other requests run, and the result at the end.

    A candidate feature with the name `source` has the candidate's source, unless the candidate brings a value.

    Raises InvalidRequest for a feature that the schema lacks, a value that does not fit, and a required one that is
    left out.
    """
    layout = layouts.candidate
    # Separate the values of candidate features from those of item features.
    of_candidates = [features.get(place, _NOTHING) for place in range(candidates)]
    own_items = _of_items(layouts, features)
    rows = layout.empty(candidates)
    missing: set[str] = set()
    # Pack one feature after another, so that the usual values need no Python call per candidate.
    for feature in layout.features:
        for start in range(0, candidates, _PACKED_AT_ONCE):
            part = of_candidates[start : start + _PACKED_AT_ONCE]
            values = [of_candidate.get(feature.name, _ABSENT) for of_candidate in part]
            if feature.name == SOURCE and sources is not None:
                values = [
                    source if value is _ABSENT and source is not None else value
                    for value, source in zip(values, sources[start : start + _PACKED_AT_ONCE], strict=True)
                ]
            if _ABSENT in values:
                missing.add(feature.name)
                if feature.required:
                    raise invalid(_field(start + values.index(_ABSENT), feature), "a value is required")
                values = [None if value is _ABSENT else value for value in values]
            _pack(layout, rows[start : start + _PACKED_AT_ONCE], feature, values, start)
            if candidates > _PACKED_AT_ONCE:
                yield None
    yield CandidateValues(own_items, rows, frozenset(missing))


def _field(place: int, feature: Feature) -> str:
    return f"candidates[{place}].features.{feature.name}"


def _of_items(layouts: Layouts, features: FeaturesByPlace) -> FeaturesByPlace:
    """The values of item features by position. Raises InvalidRequest for a name that the schema lacks."""
    candidate = layouts.candidate
    own_items: dict[int, dict[str, object]] = {}
    for place, values in features.items():
        of_item = {name: value for name, value in values.items() if name not in candidate}
        if not of_item:
            continue
        for name in of_item:
            if name not in layouts.item:
                known = [feature.name for feature in (*candidate.features, *layouts.item.features)]
                raise invalid(f"candidates[{place}].features.{name}", f"unknown feature{nearest(name, known)}")
        own_items[place] = of_item
    return own_items


def _pack(layout: RowLayout, rows: np.ndarray, feature: Feature, values: Sequence[object], start: int) -> None:
    """Pack the values of one feature into rows `[n]`; the first is that of the candidate at `start`."""
    if isinstance(feature, Numeric):
        numbers = _numbers(feature, values)
        if numbers is not None:
            rows["numerics"][:, layout.numeric_columns[feature.name]] = numbers
            return
    elif isinstance(feature, Categorical):
        keys = _keys(feature, values)
        if keys is not None:
            rows["keys"][:, layout.key_columns[feature.name].start] = keys
            return
    # Lists, vectors, and values that do not fit: one candidate after another, so that an error names its candidate.
    for place, value in enumerate(values):
        packed = layout.rows(pack_raw(layout, {feature.name: value}, f"candidates[{start + place}].features"))
        if isinstance(feature, Numeric | Vector):
            numbers_at = layout.number_columns([feature.name])
            rows["numerics"][place, numbers_at] = packed["numerics"][0, numbers_at]
        else:
            columns = layout.key_columns[feature.name]
            rows["keys"][place, columns] = packed["keys"][0, columns]


def _numbers(feature: Numeric, values: Sequence[object]) -> np.ndarray | None:
    """Numbers float64 `[n]`, NaN where a value is None; None if a value is no number in float32, or an integer of more
    than 64 bits.
    """
    if not _NUMBERS.issuperset(map(type, values)) or (feature.required and None in values):
        return None
    try:
        numbers = np.array(values, dtype=np.float64)
    except OverflowError:
        return None
    # NaN compares false, so the only values outside the bounds may be the missing ones.
    sizes = np.abs(numbers)
    if np.count_nonzero(sizes <= _LARGEST) < len(values) - values.count(None):
        return None
    if np.any(sizes >= 2**63) and not _have_64_bits(values):
        return None
    return numbers


def _have_64_bits(values: Sequence[object]) -> bool:
    """Whether all integers among the values are signed or unsigned ones of 64 bits."""
    integers = [value for value in values if type(value) is int]
    return not integers or (min(integers) >= -(2**63) and max(integers) < 2**64)


def _keys(feature: Categorical, values: Sequence[object]) -> list[int] | None:
    """Keys `[n]`; None if a value is no string or integer of 64 bits, or is too long."""
    if not _CATEGORIES.issuperset(map(type, values)) or (feature.required and None in values):
        return None
    if not _have_64_bits(values):
        return None
    vocabulary = feature.vocabulary_name
    try:
        return [key_of(vocabulary, value, feature.name, feature.part_of) for value in values]
    except FeatureError:
        return None
