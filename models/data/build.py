"""Encodes a recipe's tables once into a folder of flat arrays."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from features.schemas.schema import DERIVED
from models.data.arrays import read_array
from models.data.counting.counters import count_log, read_counters
from models.data.deriving.derive import write_derived
from models.data.encoding.behaviours import EVENT, merge_behaviours
from models.data.encoding.encoding import Encoding, continued
from models.data.encoding.entities import Entities
from models.data.encoding.fit import fit_encoding
from models.data.encoding.impressions import merge_impressions
from models.data.encoding.packed import PackedPart, packed_group
from models.data.encoding.rows import IMPRESSION_GROUPS, write_rows
from models.data.encoding.visible import VIEWS, write_ranges
from models.data.partitions.encode import entity_of, require_columns
from models.data.partitions.run import FOLDER, encode_partitions
from models.data.raw_rows import raw_rows
from models.data.requests import compare_requests, read_within
from models.data.split import PARTS, SplitParts
from models.recipe import Recipe
from tables import Table

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
        cross_values = write_rows(recipe, folder, encoding, packed, events, counts.parts)
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
        context=packed_group(recipe, folder, part, "context", n),
        candidate=packed_group(recipe, folder, part, "candidate", n),
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
    return replace(part, derived=packed_group(recipe, folder, name, DERIVED, len(part.user)))
