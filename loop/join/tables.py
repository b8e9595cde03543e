"""Makes the rows of the tables of a join: impressions, and what was served of users, items and behaviours.

A row of users stands for what one ranking knew of its user, its behaviours included; a row of items for what it knew of
an item. Equal ones are one row, named by their content and feature schema.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa

from features import Numeric, RowLayout
from features.layouts import Layouts
from features.schemas.schema import Feature, FeatureSchema, MultiCategorical, Vector
from loop.join.delays import PART, label_fields, label_names
from loop.join.served import ServedRows, counters_of, entity_rows, name_of
from models.recipe import Recipe
from models.recipe.sections.data import ITEM_ROW, USER_ROW
from tables.key64 import key64_field

ROLES: Final = ("impressions", "users", "items", "behaviours")
# Columns about the ranking, beside the ids, the labels, the context and the candidates' own features.
SERVED_BY: Final = ("model", "version", "role", "scene", "profile", "experiment", "arm", "propensity")
_PREFIX = "served_"


@dataclass
class JoinedRows:
    """The rows of the four tables of some exposures, as columns."""

    columns: dict[str, dict[str, list[Any]]] = field(default_factory=lambda: {role: {} for role in ROLES})

    def add(self, role: str, columns: Mapping[str, Sequence[Any]]) -> None:
        for name, values in columns.items():
            self.columns[role].setdefault(name, []).extend(values)

    def __len__(self) -> int:
        return max((len(next(iter(c.values()), ())) for c in self.columns.values()), default=0)


def arrow_schemas(recipe: Recipe) -> dict[str, pa.Schema]:
    """The columns of each table. Features that were served are columns of keys."""
    data = recipe.data
    features = recipe.features
    user_row = key64_field(USER_ROW)
    item_row = key64_field(ITEM_ROW)
    position = recipe.position.column if recipe.position else "position"
    schemas = {
        "impressions": [
            user_row,
            item_row,
            pa.field(data.user_id, pa.string()),
            pa.field(data.item_id, pa.string()),
            pa.field(data.time_ms, pa.int64()),
            pa.field(data.request_id or "request_id", pa.string()),
            pa.field(position, pa.int32()),
            *label_fields(recipe),
            *_fields(features.context),
            *_fields(features.counter_numbers),
            *_fields(features.candidate),
            *(pa.field(_PREFIX + name, pa.float64() if name == "propensity" else pa.string()) for name in SERVED_BY),
        ],
        "users": [user_row, *_fields(features.user)],
        "items": [item_row, *_fields(features.item)],
        "behaviours": [
            user_row,
            pa.field("place", pa.int32()),
            item_row,
            key64_field("action"),
            key64_field("scene"),
            pa.field(data.time_ms, pa.int64()),
        ],
    }
    return {role: pa.schema(fields) for role, fields in schemas.items()}


def _fields(features: Sequence[Feature]) -> list[pa.Field]:
    return [_field(feature) for feature in features]


def _field(feature: Feature) -> pa.Field:
    if isinstance(feature, Numeric):
        return pa.field(feature.name, pa.float32())
    if isinstance(feature, Vector):
        return pa.field(feature.name, pa.list_(pa.float32()))
    return key64_field(feature.name, feature.type == "multi_categorical")


def add_exposure(rows: JoinedRows, exposure: Mapping[str, Any], recipe: Recipe, layouts: Layouts) -> None:
    """Add the rows of one exposure."""
    data = recipe.data
    places = np.array(exposure["positions"], dtype=np.int64) - 1 - (exposure.get("ranked_before") or 0)
    n = len(places)
    # The rows that were served.
    user = entity_rows(exposure, layouts.user, "user", 1)
    every_item = entity_rows(exposure, layouts.item, "item", len(exposure["item_ids"]))
    items = ServedRows(layouts.item, every_item.keys[places], every_item.numerics[places])
    item_ids = [exposure["item_ids"][place] for place in places.tolist()]
    schema = exposure["schema"]  # the same bytes mean something else in another one
    behaviours = [exposure[f"behaviour_{part}"] or b"" for part in ("keys", "numerics", "times")]
    user_row = name_of("user", schema, exposure["user_id"], user.keys.tobytes(), user.numerics.tobytes(), *behaviours)
    item_rows = items.names("item", schema, item_ids)
    # The impressions.
    context = entity_rows(exposure, layouts.context, "context", 1)
    every_candidate = entity_rows(exposure, layouts.candidate, "candidate", len(exposure["item_ids"]))
    candidate_rows = ServedRows(layouts.candidate, every_candidate.keys[places], every_candidate.numerics[places])
    position = recipe.position.column if recipe.position else "position"
    impressions: dict[str, Sequence[Any]] = {
        USER_ROW: [user_row] * n,
        ITEM_ROW: item_rows.tolist(),
        data.user_id: [exposure["user_id"]] * n,
        data.item_id: item_ids,
        data.time_ms: [exposure["time_ms"]] * n,
        data.request_id or "request_id": [exposure["request_id"]] * n,
        position: exposure["positions"],
    }
    impressions |= {name: exposure[f"label_{place}"] for place, name in enumerate(label_names(recipe))}
    impressions[PART] = exposure[PART]
    impressions |= {name: values * n for name, values in _columns(context, recipe.features.context).items()}
    numbers = counters_of(exposure, layouts)[places] if recipe.features.counters else np.zeros((n, 0))
    names = [counter.name for counter in layouts.schema.counters]
    for counter in recipe.features.counters:
        column = numbers[:, names.index(counter.name)].tolist()
        impressions[counter.name] = [None if value != value else value for value in column]
    impressions |= _columns(candidate_rows, recipe.features.candidate)
    impressions |= {_PREFIX + name: [exposure[name]] * n for name in SERVED_BY}
    rows.add("impressions", impressions)
    rows.add("users", {USER_ROW: [user_row]} | _columns(user, recipe.features.user))
    rows.add("items", {ITEM_ROW: item_rows.tolist()} | _columns(items, recipe.features.item))
    if layouts.behaviour is not None and recipe.features.behaviour is not None:
        _add_behaviours(rows, exposure, recipe.features, layouts, user_row, data.time_ms)


def _add_behaviours(
    rows: JoinedRows,
    exposure: Mapping[str, Any],
    schema: FeatureSchema,
    layouts: Layouts,
    user_row: int,
    time_column: str,
) -> None:
    """Add the behaviours that a ranking saw, oldest first, and the rows of their items."""
    assert layouts.behaviour is not None
    assert schema.behaviour is not None
    times = np.frombuffer(exposure["behaviour_times"] or b"", "<i8")
    newest = slice(None, schema.behaviour.max_length)
    every = entity_rows(exposure, layouts.behaviour, "behaviour", len(times))
    served = ServedRows(layouts.behaviour, every.keys[newest][::-1], every.numerics[newest][::-1])
    used = schema.behaviour_item_features
    columns = {f.name: served.values(f) for f in used}
    # A behaviour's item is one of its own: it has the features that the behaviour carried, as they were then.
    layout = RowLayout(schema.item)
    packed = layout.empty(len(served))
    for f in used:
        if isinstance(f, Numeric):
            packed["numerics"][:, layout.numeric_columns[f.name]] = columns[f.name]
        elif isinstance(f, Vector):
            packed["numerics"][:, layout.vector_columns[f.name]] = columns[f.name]
        elif isinstance(f, MultiCategorical):
            packed["keys"][:, layout.key_columns[f.name]] = columns[f.name]
        else:
            packed["keys"][:, layout.key_columns[f.name].start] = columns[f.name]
    items = ServedRows(layout, packed["keys"], packed["numerics"])
    item_rows = items.names("behaviour", "").tolist()  # always of the recipe's schema
    rows.add("items", {ITEM_ROW: item_rows} | _columns(items, schema.item))
    width = layouts.behaviour.item_key_width
    rows.add(
        "behaviours",
        {
            USER_ROW: [user_row] * len(served),
            "place": list(range(len(served))),
            ITEM_ROW: item_rows,
            "action": served.keys[:, width].tolist(),
            "scene": served.keys[:, width + 1].tolist(),
            time_column: times[newest][::-1].tolist(),
        },
    )


def _columns(rows: ServedRows, features: Sequence[Feature]) -> dict[str, list[Any]]:
    """The features of rows as table columns: keys, lists of keys without padding, numbers with null for missing."""
    columns: dict[str, list[Any]] = {}
    for feature in features:
        values = rows.values(feature).tolist()
        if isinstance(feature, Numeric):
            columns[feature.name] = [None if value != value else value for value in values]
        elif isinstance(feature, Vector):
            columns[feature.name] = [None if math.isnan(vector[0]) else vector for vector in values]
        elif isinstance(feature, MultiCategorical):
            columns[feature.name] = [[key for key in keys if key] for keys in values]
        else:
            columns[feature.name] = values
    return columns


def as_table(columns: Mapping[str, list[Any]], schema: pa.Schema) -> pa.Table:
    """The columns of a table, without those that its schema does not have."""
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)
