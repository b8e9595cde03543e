"""The records of the exposure log: the Arrow schema of each kind, and batches of them.

A log has three kinds of records: exposures (what was ranked and returned), impressions (what came into view) and events
(what the user did). Times are int64 milliseconds since 1970. `logged_ms` is the clock of the service; every other time
is the caller's.

The rows that a ranking used are stored as the graph took them, little-endian: `*_keys` int64, `*_numerics` and
`item_within` float32, `behaviour_times` int64. Rows of items and of candidates stand in the order of `item_ids`,
behaviours newest first. `schema` names the feature schema that says what the columns are; the log keeps it as
`schemas/<schema>.json`.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import chain
from typing import Any, Final

import numpy as np
import pyarrow as pa

from features.layouts import BEHAVIOUR_INPUTS, CANDIDATE_INPUTS, ITEM_INPUTS, REQUEST_INPUTS

VERSION: Final = "1"


class RecordKind(StrEnum):
    """What a record of the log is about. The value begins the name of its files."""

    EXPOSURES = "exposures"
    IMPRESSIONS = "impressions"
    EVENTS = "events"


def _schema(kind: RecordKind, fields: Iterable[tuple[str, pa.DataType]]) -> pa.Schema:
    return pa.schema(list(fields), metadata={"funnelrank.record": kind.value, "funnelrank.version": VERSION})


_ITEMS = pa.list_(pa.string())
SCHEMAS: Final[Mapping[RecordKind, pa.Schema]] = {
    RecordKind.EXPOSURES: _schema(
        RecordKind.EXPOSURES,
        [
            ("request_id", pa.string()),
            ("logged_ms", pa.int64()),
            ("time_ms", pa.int64()),  # the moment that was ranked for
            ("user_id", pa.string()),
            ("scene", pa.string()),
            ("model", pa.string()),
            ("version", pa.string()),
            ("role", pa.string()),
            ("schema", pa.string()),
            ("fingerprint", pa.string()),
            ("profile", pa.string()),
            ("fusion_revision", pa.int64()),
            ("fusion", pa.string()),  # JSON of the profile, with weights that the request brought
            ("rules_revision", pa.int64()),  # null where no rules applied
            ("rules_list", pa.string()),
            ("rules_experiment", pa.string()),
            ("rules_arm", pa.string()),
            ("experiment", pa.string()),  # of fusion profiles
            ("arm", pa.string()),
            ("degraded", pa.list_(pa.string())),
            ("requested", pa.int32()),
            ("top_k", pa.int32()),  # the most items that the request asked for: all candidates without a `top_k`
            ("returned", pa.int32()),  # the first so many items were returned; items after them were cut
            ("ranked_before", pa.int32()),  # items on earlier pages of the list, which have the ranks before these
            ("of_request", _ITEMS),  # `user`, `behaviours`: those that the request gave in place of the store's
            ("items_of_request", pa.list_(pa.int32())),  # places of items with features that the request gave
            ("chunk", pa.int32()),  # candidates that were scored at once
            ("tasks", _ITEMS),
            ("item_ids", _ITEMS),
            ("places", pa.list_(pa.int32())),  # of the items in the request, from 0
            ("sources", _ITEMS),  # of the items, by the request; null if it gave none
            ("shown", pa.binary()),  # what the user had been shown, as the store packs it; null if no rule reads it
            ("scores", pa.list_(pa.float64())),  # fused, before rules boosted them
            ("predictions", pa.list_(pa.float32())),  # task by task, each with one value per item
            ("propensity", pa.float64()),  # of the list; 1 where nothing is explored
            *((name, pa.binary()) for name in REQUEST_INPUTS + ITEM_INPUTS + BEHAVIOUR_INPUTS + CANDIDATE_INPUTS),
        ],
    ),
    RecordKind.IMPRESSIONS: _schema(
        RecordKind.IMPRESSIONS,
        [
            ("impression_id", pa.string()),  # one per item that came into view
            ("request_id", pa.string()),
            ("item_id", pa.string()),
            ("position", pa.int32()),
            ("time_ms", pa.int64()),
            ("logged_ms", pa.int64()),
        ],
    ),
    RecordKind.EVENTS: _schema(
        RecordKind.EVENTS,
        [
            ("event_id", pa.string()),
            ("request_id", pa.string()),
            ("user_id", pa.string()),
            ("item_id", pa.string()),
            ("action", pa.string()),
            ("scene", pa.string()),
            ("position", pa.int32()),
            ("value", pa.float64()),  # how much, in the caller's unit
            ("time_ms", pa.int64()),
            ("logged_ms", pa.int64()),
        ],
    ),
}
# Columns that records of earlier releases lack: null there.
LATER_COLUMNS: Final = frozenset(
    {
        *("ranked_before", "of_request", "items_of_request", "counter_numerics", "value", *CANDIDATE_INPUTS),
        *("top_k", "sources", "shown"),
    }
)


def kind_of(schema: pa.Schema) -> RecordKind | None:
    """Return the kind of records of an Arrow schema; None if it is not a schema of this log."""
    for kind, known in SCHEMAS.items():
        lacking = LATER_COLUMNS.difference(schema.names)
        own = pa.schema([field for field in known if field.name not in lacking], metadata=known.metadata)
        if schema.equals(own, check_metadata=True):
            return kind
    return None


def completed(kind: RecordKind, batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch with every column of its kind; those that its release did not have are null."""
    known = SCHEMAS[kind]
    columns = [
        batch.column(field.name) if field.name in batch.schema.names else pa.nulls(len(batch), field.type)
        for field in known
    ]
    return pa.RecordBatch.from_arrays(columns, schema=known)


def batch_of(kind: RecordKind, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """A record batch of rows `{column: value}`; a column that a row lacks is null there.

    A list is a Python list or, for numbers, a numpy array.
    """
    columns = [_column([row.get(field.name) for row in rows], field.type) for field in SCHEMAS[kind]]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMAS[kind])


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if not pa.types.is_list(kind) or any(value is None for value in values):
        return pa.array(values, kind)
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    if values and isinstance(values[0], np.ndarray):
        flat = pa.array(np.concatenate(values), kind.value_type)
    else:
        flat = pa.array(list(chain.from_iterable(values)), kind.value_type)
    return pa.ListArray.from_arrays(pa.array(offsets), flat)
