"""Encodes a recipe's tables once into a folder of flat arrays."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from features import RowLayout
from features.schema import DERIVED
from models.data.arrays import ArrayFile, read_array
from models.data.counting.counters import count_log, read_counters
from models.data.deriving.derive import write_derived
from models.data.encoding.behaviours import EVENT, merge_behaviours
from models.data.encoding.encoding import Encoding, continued
from models.data.encoding.entities import Entities
from models.data.encoding.fit import fit_encoding
from models.data.encoding.impressions import merge_impressions
from models.data.encoding.packed import PackedPart, item_key_columns, item_numeric_columns
from models.data.encoding.visible import VIEWS, write_ranges
from models.data.encoding.vocabulary import behaviour_column_vocabularies, key_column_vocabularies, totalled
from models.data.partitions.encode import entity_of, require_columns
from models.data.partitions.run import FOLDER, encode_partitions
from models.data.raw_rows import raw_rows
from models.data.requests import compare_requests, read_within
from models.data.split import PARTS, SplitParts
from models.recipe import Recipe
from tables import Table

CHUNK = 1 << 16
IMPRESSION_GROUPS = ("context", "candidate", DERIVED)  # features of an impression, not of its user or item

Watch = Callable[[str], AbstractContextManager[None]]


def _unwatched(step: str) -> AbstractContextManager[None]:
    return nullcontext()


def build(
    recipe: Recipe,
    tables: Mapping[str, Table],
    folder: Path,
    cache: Path,
    earlier: Encoding | None = None,
    watch: Watch = _unwatched,
) -> dict[str, Any]:
    """Encode the tables into `folder` and return a description of them. The intermediate files are removed, but for
    those of single files of tables of many files, which stay in `cache` for the next time.

    `earlier`: the encoding that is continued; without it a new one is fitted. `watch` is entered for every step, by its
    name.
    """
    with (
        closing(_entities(recipe, "users", folder)) as users,
        closing(_entities(recipe, "items", folder)) as items,
    ):
        return _encode(recipe, tables, folder, cache, users, items, earlier, watch)


def _entities(recipe: Recipe, role: str, folder: Path) -> Entities:
    layout, id_feature = entity_of(recipe, role)
    return Entities(folder / f"{role}.packed", layout, id_feature, recipe.data.memory_bytes // 4)


def _encode(
    recipe: Recipe,
    tables: Mapping[str, Table],
    folder: Path,
    cache: Path,
    users: Entities,
    items: Entities,
    earlier: Encoding | None,
    watch: Watch,
) -> dict[str, Any]:
    # Each file by itself, on all cores.
    require_columns(recipe, tables)
    with watch("split"):
        split = SplitParts(recipe.data, tables["impressions"], folder / "parts")
    with watch("files"):
        partitions = encode_partitions(recipe, tables, split, folder, cache)
    # Users and items first: impressions and behaviours point to their rows.
    with watch("entities"):
        users.read_partitions(partitions.get("users", []))
        items.read_partitions(partitions.get("items", []))
    with watch("impressions"):
        counts = merge_impressions(partitions["impressions"], recipe, split, users, items, folder)
    repeated_behaviours = 0
    starts = np.zeros(len(users) + 1, dtype=np.int64)
    if "behaviours" in tables:
        with_impressions = np.zeros(len(users), dtype=bool)
        for part in PARTS:
            with_impressions[read_array(folder / f"{part}.user", np.int32)] = True
        with watch("behaviours"):
            starts, repeated_behaviours = merge_behaviours(
                partitions["behaviours"], recipe, users, items, with_impressions, folder
            )
    (folder / "parts").unlink()
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    count_log(recipe, tables, items, folder)
    events = read_array(folder / "events", EVENT) if "behaviours" in tables else None
    packed = {"user": users.finished(), "item": items.finished()}
    compare_requests(recipe, folder, packed["item"])
    # The behaviours that each impression sees, its derived features, and the encoding of the training part.
    with watch("ranges"):
        write_ranges(recipe, folder, events, starts)
    parts = {}
    for part in PARTS:
        parts[part] = _packed_part(recipe, folder, part, packed, events, counts.parts[part])
        write_derived(recipe.features, parts[part], folder / f"{part}.{DERIVED}")
    with watch("vocabulary"):
        encoding = fit_encoding(recipe, _with_derived(recipe, folder, "train", parts["train"]), folder)
    if earlier is not None:
        encoding = continued(earlier, encoding)
    encoding.save(folder / "encoding.npz")
    # Write raw rows for the exporter, then turn every row into embedding rows.
    rows = raw_rows(recipe, parts["validation"])
    np.savez_compressed(folder / "kept_rows.npz", **rows)  # type: ignore[arg-type]
    with watch("rows"):
        cross_values = _write_rows(recipe, folder, encoding, packed, events, counts.parts)
    for name in (
        "users.packed",
        "items.packed",
        "events",
        VIEWS,
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
        views=None if events is None else read_array(folder / VIEWS, np.int64),
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
    schema = recipe.features
    names = behaviour_column_vocabularies(schema)[-2:]
    keys = item_key_columns(recipe)
    columns = item_numeric_columns(recipe)
    width = RowLayout(schema.item).key_width
    item_rows = read_array(folder / "items_rows", np.int32, width, len(items))[:, keys]
    with (
        ArrayFile(folder / "events.rows", np.int32) as rows,
        ArrayFile(folder / "events.numerics", np.float32) as numerics,
        ArrayFile(folder / "events.time", np.int64) as times,
    ):
        rows.append(np.zeros(len(keys) + len(names)))
        numerics.append(np.zeros(len(columns)))
        times.append(np.zeros(1))
        for begin in range(0, len(events), CHUNK):
            chunk = np.array(events[begin : begin + CHUNK])
            own = np.stack([chunk["action"], chunk["scene"]], axis=1)
            of_event = encoding.vocabulary.rows_of_columns(own, names)
            rows.append(np.concatenate([item_rows[chunk["item"]], of_event], axis=1))
            numerics.append(items["numerics"][chunk["item"]][:, columns])
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
    every = read_array(folder / "train.cross", np.int64)
    chunks = (every[begin : begin + CHUNK] for begin in range(0, len(every), CHUNK))
    known, _ = totalled((chunk, np.ones(len(chunk))) for chunk in chunks)
    known = known[known != 0]
    for part in PARTS:
        keys = read_array(folder / f"{part}.cross", np.int64)
        with ArrayFile(folder / f"{part}.position_cross", np.int32) as file:
            for begin in range(0, len(keys), CHUNK):
                chunk = keys[begin : begin + CHUNK]
                place = np.searchsorted(known, chunk)
                file.append(np.where(np.isin(chunk, known), place + 1, 0))
    return len(known)
