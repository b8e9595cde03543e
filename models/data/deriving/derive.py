"""Computes the derived features of a schema from raw keys and numbers: in the graph, and for training."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from features import FeatureSchema, Numeric, RowLayout
from features.layouts import COUNTER_INPUT
from features.schemas.schema import COUNTER, DERIVED
from models.data.arrays import ArrayFile
from models.data.deriving.functions import FUNCTIONS
from models.data.encoding.packed import PackedPart

CHUNK = 1 << 14
GROUPS = ("user", "item", "context", "candidate")


def derive(schema: FeatureSchema, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`derived_keys` int64 `[C, K]` and `derived_numerics` float32 `[C, N]`, in the layout of a row of `derived`.

    `inputs` are those of the graph, where rows of users and contexts may be one or C. An empty mapping if the schema
    derives nothing; neither entry has a width of 0.
    """
    values: dict[str, Tensor] = {}

    def read(name: str) -> Tensor:
        return values[name] if name in values else _input_of(schema, inputs, name)

    time = inputs.get("request_time", torch.zeros(1, dtype=torch.int64))
    for derived in schema.derived:
        values[derived.name] = FUNCTIONS[derived.type](derived, read, time)
    # One row per candidate, also of what belongs to the request.
    candidates = next(value for name, value in inputs.items() if name.startswith("item_")).shape[0]
    keys: list[Tensor] = []
    numerics: list[Tensor] = []
    for feature in schema.derived_features:
        value = values[feature.name]
        column = value if value.dim() == 2 else value.unsqueeze(-1)
        into = numerics if isinstance(feature, Numeric) else keys
        into.append(column.expand(candidates, column.shape[1]))
    columns = {f"{DERIVED}_keys": keys, f"{DERIVED}_numerics": numerics}
    return {name: torch.cat(parts, -1) for name, parts in columns.items() if parts}


def _input_of(schema: FeatureSchema, inputs: Mapping[str, Tensor], name: str) -> Tensor:
    """A feature's column `[n]` of the inputs, or `[n, values]` if it is a list."""
    for group in GROUPS:
        layout = RowLayout(schema.group(group))
        if name in layout.numeric_columns:
            return inputs[f"{group}_numerics"][:, layout.numeric_columns[name]]
        if name in layout.key_columns:
            columns = inputs[f"{group}_keys"][:, layout.key_columns[name]]
            return columns if layout.feature(name).type == "multi_categorical" else columns[:, 0]
    counters = [feature.name for feature in schema.group(COUNTER)]
    return inputs[COUNTER_INPUT][:, counters.index(name)]


def write_derived(schema: FeatureSchema, part: PackedPart, path: Path) -> None:
    """Write the derived features of each impression of a part as packed rows; nothing if the schema derives none."""
    if not schema.derived:
        return
    layout = RowLayout(schema.derived_features)
    with ArrayFile(path, layout.dtype) as file:
        for begin in range(0, len(part.user), CHUNK):
            chunk = slice(begin, begin + CHUNK)
            derived = derive(schema, _inputs(part, chunk))
            rows = layout.empty(len(part.user[chunk]))
            for field in ("keys", "numerics"):
                if f"{DERIVED}_{field}" in derived:
                    rows[field] = derived[f"{DERIVED}_{field}"].numpy()
            file.append(rows)


def _inputs(part: PackedPart, chunk: slice) -> dict[str, Tensor]:
    """The inputs of the graph for some impressions, with a row of each group per impression."""
    groups = {
        "user": part.users[part.user[chunk]],
        "item": part.items[part.item[chunk]],
        "context": part.context[chunk],
        "candidate": part.candidate[chunk],
    }
    columns = {f"{name}_{field}": rows[field] for name, rows in groups.items() for field in ("keys", "numerics")}
    columns["request_time"] = part.time[chunk]
    if part.counters is not None:
        columns[COUNTER_INPUT] = part.counters[chunk]
    return {name: torch.from_numpy(np.array(values)) for name, values in columns.items()}
