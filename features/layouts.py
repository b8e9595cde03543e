"""The row layouts of one feature schema: users, items, contexts, candidates, behaviours; and its graph's inputs."""

import json
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Literal

import numpy as np

from features import BehaviourLayout, FeatureSchema, RowLayout
from features.counters import CellLayout, cell_layouts
from features.schemas.schema import COUNTER
from features.within_request import INPUT, ComparedColumns

Entity = Literal["user", "item"]
FREE_AXES = ("C", "L")
COUNTER_INPUT = f"{COUNTER}_numerics"
# The inputs of a graph that the exposure log stores, by their unit: one row per request, per item, per behaviour.
REQUEST_INPUTS = ("user_keys", "user_numerics", "context_keys", "context_numerics")
# The last two if candidates are compared, and if the schema has counters.
ITEM_INPUTS = ("item_keys", "item_numerics", INPUT, COUNTER_INPUT)
BEHAVIOUR_INPUTS = ("behaviour_keys", "behaviour_numerics", "behaviour_times")
CANDIDATE_INPUTS = ("candidate_keys", "candidate_numerics")  # if candidates bring features of their own
# Those with a row per candidate. A graph may read their first columns only: rules alone read the others.
ROW_INPUTS = ("item_keys", "item_numerics", *CANDIDATE_INPUTS, COUNTER_INPUT)
EVENT_KEY_BYTES = 8  # identify a behaviour and stand before its row


@dataclass(frozen=True)
class Layouts:
    """The layouts of a schema's packed rows: users, items, contexts, candidates' own values and behaviours."""

    schema: FeatureSchema
    user: RowLayout
    item: RowLayout
    context: RowLayout
    candidate: RowLayout
    behaviour: BehaviourLayout | None

    @classmethod
    def of(cls, schema: FeatureSchema) -> "Layouts":
        behaviour = BehaviourLayout(schema) if schema.behaviour else None
        user, item, context, candidate = (
            RowLayout(schema.group(group)) for group in ("user", "item", "context", "candidate")
        )
        return cls(schema, user, item, context, candidate, behaviour)

    @cached_property
    def fingerprint(self) -> str:
        return self.schema.fingerprint

    @cached_property
    def inputs_fingerprint(self) -> str:
        """Differs if a request's inputs differ: the fingerprint of stored rows, and the rows that a request brings."""
        of_request = [self.schema.row_meaning(group) for group in ("context", "candidate")]
        counters = [c.model_dump(mode="json", exclude={"transform", "bins"}) for c in self.schema.counters]
        described = [self.fingerprint, of_request, counters]
        return sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def of_rules(self) -> RowLayout:
        """What rules read of a candidate: the item's features, the candidate's own, and the counters' numbers."""
        schema = self.schema
        return RowLayout((*schema.item, *schema.candidate, *schema.counter_numbers))

    @cached_property
    def compared(self) -> ComparedColumns:
        """The item features that are compared within a request."""
        return ComparedColumns.of(self.schema)

    @cached_property
    def reads_request_time(self) -> bool:
        """Whether the graph has the input `request_time`."""
        return self.schema.reads_request_time

    @cached_property
    def counters(self) -> tuple[CellLayout, ...]:
        """The cells of the schema's counters by kind of key; most schemas have none."""
        return tuple(cell_layouts(self.schema.counters))

    @cached_property
    def member(self) -> np.dtype:
        """The layout of a behaviour in the user's sorted set. The schema must have behaviours."""
        assert self.behaviour is not None
        return np.dtype([("event", f"V{EVENT_KEY_BYTES}"), ("row", self.behaviour.dtype)])

    @cached_property
    def no_behaviours(self) -> dict[str, np.ndarray]:
        """The inputs of a user without behaviours. The schema must have behaviours."""
        assert self.behaviour is not None
        return behaviour_inputs(self.behaviour.empty(0))

    @cached_property
    def max_behaviours(self) -> int:
        return self.schema.behaviour.max_length if self.schema.behaviour else 0

    @property
    def kept_behaviours(self) -> int:
        """The number of behaviours that the store keeps per user: twice as many as a ranking reads.

        So a replay as of an earlier time reads the behaviours of that time, unless more than `max_length` behaviours
        were added since.
        """
        return 2 * self.max_behaviours

    @cached_property
    def lag_ms(self) -> int:
        """How old a behaviour must be to count."""
        return round(self.schema.behaviour.lag_s * 1000) if self.schema.behaviour else 0

    def layout(self, entity: Entity) -> RowLayout:
        return self.user if entity == "user" else self.item

    def id_feature(self, entity: Entity) -> str | None:
        return self.schema.user_id_feature if entity == "user" else self.schema.item_id_feature

    def unknown_row(self, entity: Entity, entity_id: str) -> bytes:
        """The row of an entity without a stored row: everything is missing except its own id, if that is a feature."""
        layout = self.layout(entity)
        name = self.id_feature(entity)
        return layout.default_row if name is None else layout.pack({name: entity_id})

    def row_or_unknown(self, entity: Entity, entity_id: str, stored: bytes | None) -> bytes:
        """A row as stored, or the row of an unknown entity if there is none or it does not fit the schema."""
        fits = stored is not None and len(stored) == self.layout(entity).dtype.itemsize
        return stored if fits else self.unknown_row(entity, entity_id)  # type: ignore[return-value]


def rows_of(layout: RowLayout, packed: bytes, n: int) -> np.ndarray:
    """Return `n` concatenated packed rows as a structured array; unlike frombuffer it accepts rows of width 0."""
    return np.frombuffer(packed, dtype=layout.dtype) if layout.dtype.itemsize else layout.empty(n)


def behaviour_inputs(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the graph's inputs of packed behaviour rows `[L]`, newest first."""
    return {
        "behaviour_keys": np.ascontiguousarray(rows["keys"]),
        "behaviour_numerics": np.ascontiguousarray(rows["numerics"]),
        "behaviour_times": np.ascontiguousarray(rows["time"]),
    }


def graph_inputs(layouts: Layouts) -> dict[str, tuple[str, tuple[int | str, ...]]]:
    """Return the inputs of a graph of this schema: name -> (dtype, shape); there are no inputs of width 0."""
    inputs: dict[str, tuple[str, tuple[int | str, ...]]] = {}
    groups: tuple[tuple[str, RowLayout, int | str], ...] = (
        ("user", layouts.user, 1),
        ("context", layouts.context, 1),
        ("item", layouts.item, "C"),
        ("candidate", layouts.candidate, "C"),
    )
    for name, layout, rows in groups:
        _add_row(inputs, name, layout, rows)
    if len(layouts.compared):
        inputs[INPUT] = ("float32", ("C", 2 * len(layouts.compared)))
    if layouts.counters:
        inputs[COUNTER_INPUT] = ("float32", ("C", len(layouts.schema.counters)))
    if layouts.behaviour is not None:
        _add_row(inputs, "behaviour", layouts.behaviour, "L")
        inputs["behaviour_times"] = ("int64", ("L",))
    if layouts.schema.reads_request_time:
        inputs["request_time"] = ("int64", (1,))
    return inputs


def _add_row(
    inputs: dict[str, tuple[str, tuple[int | str, ...]]], name: str, layout: RowLayout, rows: int | str
) -> None:
    if layout.key_width:
        inputs[f"{name}_keys"] = ("int64", (rows, layout.key_width))
    if layout.numeric_width:
        inputs[f"{name}_numerics"] = ("float32", (rows, layout.numeric_width))
