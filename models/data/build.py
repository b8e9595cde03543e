"""Encodes a recipe's tables once into a folder of flat arrays."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from features import RowLayout
from features.schema import DERIVED
from features.times import LATEST_MS
from models.data.arrays import ArrayFile, read_array
from models.data.counting.counters import count_log, read_counters
from models.data.deriving.derive import write_derived
from models.data.encoding.behaviours import EVENT, encode_behaviours, visible_range
from models.data.encoding.encoding import Encoding, continued
from models.data.encoding.entities import Entities
from models.data.encoding.fit import fit_encoding
from models.data.encoding.impressions import encode_impressions
from models.data.encoding.packed import PackedPart, item_key_columns, item_numeric_columns
from models.data.encoding.vocabulary import behaviour_column_vocabularies, key_column_vocabularies
from models.data.raw_rows import raw_rows
from models.data.requests import compare_requests, read_within
from models.data.split import PARTS
from models.recipe import Recipe
from tables import Table

CHUNK = 1 << 16
IMPRESSION_GROUPS = ("context", "candidate", DERIVED)  # features of an impression, not of its user or item


def build(recipe: Recipe, tables: Mapping[str, Table], folder: Path, earlier: Encoding | None = None) -> dict[str, Any]:
    """Encode the tables into `folder` and return a description of them. The packed intermediate files are removed.

    `earlier`: the encoding that is continued; without it a new one is fitted.
    """
    schema = recipe.features
    # Served rows have the id as a column of its own, since they are named by what they hold.
    ids = (None, None) if recipe.data.served else (schema.user_id_feature, schema.item_id_feature)
    with (
        closing(Entities(folder / "users.packed", RowLayout(schema.user), ids[0])) as users,
        closing(Entities(folder / "items.packed", RowLayout(schema.item), ids[1])) as items,
    ):
        return _encode(recipe, tables, folder, users, items, earlier)


def _encode(
    recipe: Recipe,
    tables: Mapping[str, Table],
    folder: Path,
    users: Entities,
    items: Entities,
    earlier: Encoding | None,
) -> dict[str, Any]:
    data = recipe.data
    # Users and items first: impressions and behaviours point to their rows.
    if "users" in tables:
        users.read(tables["users"], data.user_row, served=data.served)
    if "items" in tables:
        items.read(tables["items"], data.item_row, served=data.served)
    counts = encode_impressions(tables["impressions"], recipe, users, items, folder)
    repeated_behaviours = 0
    starts = np.zeros(len(users) + 1, dtype=np.int64)
    if "behaviours" in tables:
        with_impressions = np.zeros(len(users), dtype=bool)
        for part in PARTS:
            with_impressions[read_array(folder / f"{part}.user", np.int32)] = True
        starts, repeated_behaviours = encode_behaviours(
            tables["behaviours"], recipe, users, items, with_impressions, folder
        )
    count_log(recipe, tables, items, folder)
    events = read_array(folder / "events", EVENT) if "behaviours" in tables else None
    packed = {"user": users.finished(), "item": items.finished()}
    compare_requests(recipe, folder, packed["item"])
    # The behaviours that each impression sees, its derived features, and the encoding of the training part.
    parts = {}
    for part in PARTS:
        _write_ranges(recipe, folder, part, events, starts)
        parts[part] = _packed_part(recipe, folder, part, packed, events, counts.parts[part])
        write_derived(recipe.features, parts[part], folder / f"{part}.{DERIVED}")
    encoding = fit_encoding(recipe, _with_derived(recipe, folder, "train", parts["train"]))
    if earlier is not None:
        encoding = continued(earlier, encoding)
    encoding.save(folder / "encoding.npz")
    # Write raw rows for the exporter, then turn every row into embedding rows.
    rows = raw_rows(recipe, parts["validation"])
    np.savez_compressed(folder / "kept_rows.npz", **rows)  # type: ignore[arg-type]
    cross_values = _write_rows(recipe, folder, encoding, packed, events, counts.parts)
    for name in (
        "users.packed",
        "items.packed",
        "events",
        *(f"{p}.{c}" for p in PARTS for c in (*IMPRESSION_GROUPS, "cross")),
    ):
        (folder / name).unlink(missing_ok=True)
    return {
        "impressions": dict(counts.parts) | {"unused": counts.unused, "repeated": counts.repeated},
        "users": {"rows": len(users), "repeated": users.repeated, "without_row": users.without_row},
        "items": {"rows": len(items), "repeated": items.repeated, "without_row": items.without_row},
        "behaviours": None if events is None else {"rows": len(events), "repeated": repeated_behaviours},
        "embedding_rows": encoding.vocabulary.n_rows,
        "cross_values": cross_values,
        "unmatched": counts.unmatched,
        "context_variation": counts.context_variation,
        "without_table": [role for role in ("users", "items") if role not in tables],
    }


def _write_ranges(recipe: Recipe, folder: Path, part: str, events: np.ndarray | None, starts: np.ndarray) -> None:
    user = read_array(folder / f"{part}.user", np.int32)
    time = read_array(folder / f"{part}.time", np.int64)
    lag_ms = round(recipe.data.behaviour_lag_s * 1000)
    length = recipe.features.behaviour.max_length if recipe.features.behaviour else 0
    with ArrayFile(folder / f"{part}.start", np.int64) as first, ArrayFile(folder / f"{part}.end", np.int64) as last:
        for begin in range(0, len(user), CHUNK):
            chunk = slice(begin, begin + CHUNK)
            n = len(user[chunk])
            start = end = np.zeros(n, dtype=np.int64)
            if events is not None:
                # A served row of a user has exactly the behaviours that the ranking saw.
                before = np.full(n, LATEST_MS + 1) if recipe.data.served else time[chunk] - lag_ms
                start, end = visible_range(events["time"], starts, np.asarray(user[chunk]), before, length)
            first.append(start)
            last.append(end)


def _packed_part(
    recipe: Recipe, folder: Path, part: str, packed: Mapping[str, np.ndarray], events: np.ndarray | None, n: int
) -> PackedPart:
    return PackedPart(
        users=packed["user"],
        items=packed["item"],
        context=_packed_group(recipe, folder, part, "context", n),
        candidate=_packed_group(recipe, folder, part, "candidate", n),
        events=events,
        user=read_array(folder / f"{part}.user", np.int32),
        item=read_array(folder / f"{part}.item", np.int32),
        time=read_array(folder / f"{part}.time", np.int64),
        start=read_array(folder / f"{part}.start", np.int64),
        end=read_array(folder / f"{part}.end", np.int64),
        within=read_within(recipe, folder, part, n),
        counters=read_counters(recipe, folder, part, n),
    )


def _with_derived(recipe: Recipe, folder: Path, name: str, part: PackedPart) -> PackedPart:
    """Add the result of `write_derived` to a part."""
    if not recipe.features.derived:
        return part
    return replace(part, derived=_packed_group(recipe, folder, name, DERIVED, len(part.user)))


def _packed_group(recipe: Recipe, folder: Path, part: str, group: str, n: int) -> np.ndarray:
    """The packed rows `[n]` of a group that impressions have a row of."""
    layout = RowLayout(recipe.features.group(group))
    if not layout.dtype.itemsize:
        return layout.empty(n)
    return read_array(folder / f"{part}.{group}", layout.dtype)


def _write_rows(
    recipe: Recipe,
    folder: Path,
    encoding: Encoding,
    packed: Mapping[str, np.ndarray],
    events: np.ndarray | None,
    counts: Mapping[str, int],
) -> int:
    """Turn packed keys into embedding rows on disk; return the number of cross values of the position in training."""
    for group, rows in packed.items():
        _write_group(folder / f"{group}s", rows, encoding, group)
    for part in PARTS:
        for group in IMPRESSION_GROUPS:
            rows = _packed_group(recipe, folder, part, group, counts[part])
            _write_group(folder / f"{part}.{group}", rows, encoding, group)
    if events is not None:
        _write_events(recipe, folder, encoding, packed["item"], events)
    return _write_cross(recipe, folder)


def _write_events(recipe: Recipe, folder: Path, encoding: Encoding, items: np.ndarray, events: np.ndarray) -> None:
    """Write every event with its item's rows, so that a sequence is contiguous on disk; the first event is padding."""
    names = behaviour_column_vocabularies(recipe.features)
    keys = item_key_columns(recipe)
    columns = item_numeric_columns(recipe)
    with (
        ArrayFile(folder / "events.rows", np.int32) as rows,
        ArrayFile(folder / "events.numerics", np.float32) as numerics,
        ArrayFile(folder / "events.time", np.int64) as times,
    ):
        rows.append(np.zeros(len(names)))
        numerics.append(np.zeros(len(columns)))
        times.append(np.zeros(1))
        for begin in range(0, len(events), CHUNK):
            chunk = np.array(events[begin : begin + CHUNK])
            item = items[chunk["item"]]
            packed = np.concatenate([item["keys"][:, keys], chunk["action"][:, None], chunk["scene"][:, None]], axis=1)
            rows.append(encoding.vocabulary.rows_of_columns(packed, names))
            numerics.append(item["numerics"][:, columns])
            times.append(chunk["time"])


def _write_group(path: Path, packed: np.ndarray, encoding: Encoding, group: str) -> None:
    names = key_column_vocabularies(encoding.schema.group(group))
    with ArrayFile(Path(f"{path}_rows"), np.int32) as rows, ArrayFile(Path(f"{path}_numerics"), np.float32) as numerics:
        for begin in range(0, len(packed), CHUNK):
            rows.append(encoding.vocabulary.rows_of_columns(packed["keys"][begin : begin + CHUNK], names))
            numerics.append(packed["numerics"][begin : begin + CHUNK])


def _write_cross(recipe: Recipe, folder: Path) -> int:
    if recipe.position is None:
        return 0
    known = np.unique(read_array(folder / "train.cross", np.int64))
    known = known[known != 0]
    for part in PARTS:
        keys = read_array(folder / f"{part}.cross", np.int64)
        place = np.searchsorted(known, keys)
        in_training = np.isin(keys, known)
        with ArrayFile(folder / f"{part}.position_cross", np.int32) as file:
            file.append(np.where(in_training, place + 1, 0))
    return len(known)
