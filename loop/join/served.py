"""Reads the rows that a ranking used out of its exposure, by feature, in the columns that training tables have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from features import FeatureSchema, RowLayout
from features.layouts import COUNTER_INPUT, Layouts
from features.schemas.schema import Feature, MultiCategorical, Numeric, Vector


@dataclass(frozen=True)
class ServedRows:
    """Keys int64 `[n, K]` and numerics float32 `[n, N]` of one entity, and where its features stand in them."""

    layout: RowLayout
    keys: np.ndarray
    numerics: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def values(self, feature: Feature) -> np.ndarray:
        """Keys `[n]` or `[n, values]` of a categorical feature, numbers `[n]`, or vectors `[n, width]`."""
        if isinstance(feature, Vector):
            return self.numerics[:, self.layout.vector_columns[feature.name]]
        if isinstance(feature, Numeric):
            return self.numerics[:, self.layout.numeric_columns[feature.name]]
        keys = self.keys[:, self.layout.key_columns[feature.name]]
        return keys if isinstance(feature, MultiCategorical) else keys[:, 0]

    def names(self, kind: str, schema: str, ids: Sequence[str] = ()) -> np.ndarray:
        """A name of each row by what it holds, int64 `[n]` and never 0; equal rows of one schema have one name."""
        keys = np.ascontiguousarray(self.keys)
        numerics = np.ascontiguousarray(self.numerics)
        texts = ids or [""] * len(self)
        return np.array(
            [name_of(kind, schema, texts[i], keys[i].tobytes(), numerics[i].tobytes()) for i in range(len(self))],
            np.int64,
        )


def name_of(*parts: str | bytes) -> int:
    """A 64-bit name of what these parts hold, never 0."""
    digest = blake2b(digest_size=8)
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little") + content)
    return int.from_bytes(digest.digest(), "little", signed=True) or 1


def entity_rows(exposure: Mapping[str, Any], layout: RowLayout, name: str, count: int) -> ServedRows:
    """The rows of `user`, `context`, `item`, `candidate` or `behaviour`, `count` of them, of an exposure's record."""
    keys = np.frombuffer(exposure.get(f"{name}_keys") or b"", "<i8").reshape(count, layout.key_width)
    numerics = np.frombuffer(exposure.get(f"{name}_numerics") or b"", "<f4").reshape(count, layout.numeric_width)
    return ServedRows(layout, keys, numerics)


def graph_inputs_of(exposure: Mapping[str, Any], layouts: Layouts) -> dict[str, np.ndarray]:
    """The graph's inputs of an exposure, items in the order of its record."""
    items = len(exposure["item_ids"])
    inputs: dict[str, np.ndarray] = {}
    for name, layout, count in (
        ("user", layouts.user, 1),
        ("context", layouts.context, 1),
        ("item", layouts.item, items),
        ("candidate", layouts.candidate, items),
    ):
        rows = entity_rows(exposure, layout, name, count)
        inputs |= {f"{name}_keys": rows.keys, f"{name}_numerics": rows.numerics}
    if layouts.counters:
        inputs[COUNTER_INPUT] = counters_of(exposure, layouts)
    if layouts.behaviour is not None:
        times = np.frombuffer(exposure["behaviour_times"] or b"", "<i8")
        rows = entity_rows(exposure, layouts.behaviour, "behaviour", len(times))
        inputs |= {"behaviour_keys": rows.keys, "behaviour_numerics": rows.numerics, "behaviour_times": times}
    if layouts.reads_request_time:
        inputs["request_time"] = np.array([exposure["time_ms"]], dtype=np.int64)
    return inputs


def counters_of(exposure: Mapping[str, Any], layouts: Layouts) -> np.ndarray:
    """The numbers of the schema's counters, float32 `[items, K]`, items in the order of the record."""
    count = len(layouts.schema.counters)
    return np.frombuffer(exposure[COUNTER_INPUT] or b"", "<f4").reshape(len(exposure["item_ids"]), count)


def lacking(logged: FeatureSchema, read: FeatureSchema) -> str:
    """Why rows of one schema cannot be those of another; empty if they can."""
    for group in ("user", "item", "context", "candidate"):
        known = {feature.name: feature for feature in logged.group(group)}
        for feature in read.group(group):
            there = known.get(feature.name)
            if there is None:
                return f"{group} feature '{feature.name}' was not logged"
            if _meaning(there) != _meaning(feature):
                return f"{group} feature '{feature.name}' was logged as another one: {_meaning(there)}"
    for counter in read.counters:
        if counter not in logged.counters:
            return f"counter '{counter.name}' was not logged, or as another one"
    return _lacking_behaviours(logged, read)


def _lacking_behaviours(logged: FeatureSchema, read: FeatureSchema) -> str:
    if read.behaviour is None:
        return ""
    if logged.behaviour is None:
        return "behaviours were not logged"
    for name in read.behaviour.item_features:
        if name not in logged.behaviour.item_features:
            return f"behaviours were logged without '{name}'"
    for field in ("action_vocabulary", "scene_vocabulary"):
        if getattr(logged.behaviour, field) != getattr(read.behaviour, field):
            return f"behaviours were logged with another {field}"
    if logged.behaviour.max_length < read.behaviour.max_length:
        return f"at most {logged.behaviour.max_length} behaviours were logged"
    return ""


def _meaning(feature: Feature) -> str:
    if isinstance(feature, Vector):
        return f"vector of {feature.width} numbers"
    vocabulary = getattr(feature, "vocabulary_name", "")
    width = feature.max_values if isinstance(feature, MultiCategorical) else 1
    text = getattr(feature, "text", None)
    part = "" if text is None else f", {text.model_dump()} of the text"
    return f"{feature.type} of vocabulary '{vocabulary}', {width} wide{part}" if vocabulary else feature.type
