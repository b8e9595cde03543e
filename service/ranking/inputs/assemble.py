"""Assembles packed rows into the graph's named inputs.

No Python code runs per candidate, except for candidates with their own feature values.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np

from features import FeatureError, RowLayout
from features.layouts import Layouts, behaviour_inputs
from features.schemas.schema import Feature, MultiCategorical
from service.errors import FieldError, InvalidRequest
from service.store.base import StoredRows
from service.store.item_rows import ItemRows, unknown_rows

_INTEGERS = range(-(2**63), 2**64)
_PACKED_AT_ONCE = 100
# Equal values of these types have the same row; 0.0 and -0.0, or 1 and true, may not.
_REMEMBERED = frozenset({str, int})


@dataclass(slots=True, eq=False)
class Assembled:
    """The graph's inputs for one request, and which rows the store did not have."""

    inputs: dict[str, np.ndarray]
    unknown_user: bool
    unknown_items: int


def pack_raw(layout: RowLayout, values: Mapping[str, object], field: str, onto: bytes | None = None) -> bytes:
    """A packed row of values from JSON. Raises InvalidRequest that names `field` and the feature."""
    checked: dict[str, object] = {}
    try:
        for name, value in values.items():
            feature = layout.feature(name)
            checked[name] = value if isinstance(value, str) else _checked_value(feature, value)
        return layout.pack(checked, onto=onto)
    except FeatureError as error:
        where = f"{field}.{error.field}"
        raise InvalidRequest(f"{where}: {error.message}", errors=[FieldError(where, error.message)]) from None


def packed_context(layout: RowLayout, context: Mapping[str, object]) -> bytes:
    """A packed row of a request's context. Raises InvalidRequest as `pack_raw` does.

    Rows of strings and integers are remembered, because callers send few different ones: a page, an hour, a device.
    """
    if _REMEMBERED.issuperset(map(type, context.values())):
        return _remembered_context(layout, tuple(context.items()))
    return pack_raw(layout, context, "context")


@lru_cache(maxsize=512)
def _remembered_context(layout: RowLayout, context: tuple[tuple[str, object], ...]) -> bytes:
    return pack_raw(layout, dict(context), "context")


def _checked_value(feature: Feature, value: object) -> object:
    """Check a value from JSON; a list is cut to the schema's length, so that the rest is not hashed.

    Refuses values that JSON allows and a feature does not: NaN, infinities, long integers, null if a value is required.
    """
    if isinstance(value, list) and isinstance(feature, MultiCategorical):
        # Missing elements take no place, here as in tables.
        present = (entry for entry in value if entry is not None and entry != "")
        used = list(islice(present, feature.max_values))
        for entry in used:
            _check_number(feature, entry)
        return used
    if value is None and feature.required:
        raise FeatureError(feature.name, "a value is required")
    _check_number(feature, value)
    return value


def _check_number(feature: Feature, value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise FeatureError(feature.name, "NaN and Infinity are no values; send null for a missing one")
    if isinstance(value, int) and value not in _INTEGERS:
        raise FeatureError(feature.name, "an integer has at most 64 bits")


def item_rows(layouts: Layouts, stored: StoredRows | None, item_ids: Sequence[str]) -> ItemRows:
    """Return the candidates' rows; rows of unknown items if the store is away (`stored` is None)."""
    if stored is not None:
        return stored.items
    rows = unknown_rows(layouts, item_ids)
    return ItemRows(rows["keys"].copy(), rows["numerics"].copy(), np.ones(len(rows), dtype=np.uint8))


def put_own_features(
    layout: RowLayout, items: ItemRows, features: Mapping[int, Mapping[str, object]]
) -> Iterator[None]:
    """Replace stored values by the candidates' own values, by position.

    Yields after some rows, so that the caller can let other requests run.
    """
    row = layout.empty(1)
    for done, (place, values) in enumerate(features.items(), 1):
        row["keys"] = items.keys[place]
        row["numerics"] = items.numerics[place]
        packed = layout.rows(pack_raw(layout, values, f"candidates[{place}].features", onto=row.tobytes()))
        items.keys[place] = packed["keys"][0]
        items.numerics[place] = packed["numerics"][0]
        if done % _PACKED_AT_ONCE == 0:
            yield


def assemble(
    layouts: Layouts,
    stored: StoredRows | None,
    items: ItemRows,
    user_id: str,
    context: bytes,
    now_ms: int,
    candidates: np.ndarray | None = None,
) -> Assembled:
    """Return the graph's inputs for one request; `stored` is None if the store is away, `context` is a packed row.

    `candidates` are the packed rows `[C]` of the candidates' own features, None if the schema has none.
    """
    user = stored.user if stored else None
    unknown_user = user is None and bool(layouts.schema.user)
    user_keys, user_numerics = layouts.user.columns_of(layouts.unknown_row("user", user_id) if user is None else user)
    context_keys, context_numerics = layouts.context.columns_of(context)
    inputs = {
        "user_keys": user_keys,
        "user_numerics": user_numerics,
        "context_keys": context_keys,
        "context_numerics": context_numerics,
        "item_keys": items.keys,
        "item_numerics": items.numerics,
    }
    if candidates is not None:
        inputs["candidate_keys"] = np.ascontiguousarray(candidates["keys"])
        inputs["candidate_numerics"] = np.ascontiguousarray(candidates["numerics"])
    if layouts.behaviour is not None:
        members = stored.behaviours if stored else None
        inputs |= _behaviours(layouts, members) if members else layouts.no_behaviours
    # Also if this graph does not read it: a new version of the same schema may, and is compared on these inputs.
    inputs["request_time"] = np.array([now_ms], dtype=np.int64)
    return Assembled(inputs, unknown_user, int(np.count_nonzero(items.states)))


def _behaviours(layouts: Layouts, members: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Return the inputs of behaviours as the store has them, newest first."""
    return behaviour_inputs(np.frombuffer(b"".join(members), layouts.member)["row"])
