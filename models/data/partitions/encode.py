"""Encodes one file of a table into arrays that depend on no other file: ids are 64-bit keys in them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from features import RowLayout, keys_of_column
from features.keys import sorted_distinct
from features.layouts import Layouts
from features.schemas.schema import Categorical
from features.times import latest_now_ms
from models.data.arrays import ArrayFile, read_array
from models.data.encoding.entities import id_keys
from models.data.encoding.impressions import encoded_columns, impression_columns, impression_types
from models.data.encoding.known_keys import KnownKeys
from models.data.split import PART_TYPE
from models.data.stored.partition import PartitionWriter
from models.recipe import Recipe
from tables import Batch, Table, packed_rows
from tables.files.table_file import TableFile
from tables.packing import feature_columns, list_columns
from tables.reading import file_batches

KEY = np.int64
ROLES = ("users", "items", "impressions", "behaviours")


@dataclass(frozen=True)
class FileToEncode:
    """One file, and what is read of it. `kinds`: the types of CSV columns, which all files of a table decide.

    `used`: of impressions the file of every row's part, and the place of this file's first row in it.
    """

    recipe: Recipe
    role: str
    file: TableFile
    kinds: Mapping[str, str]
    used: tuple[Path, int] | None = None

    def batches(self, columns: Sequence[str], lists: frozenset[str] = frozenset()) -> Iterator[Batch]:
        return file_batches(self.file, self.role, columns, lists, self.kinds)


def columns_of(recipe: Recipe, role: str) -> tuple[dict[str, str], frozenset[str]]:
    """The columns that are read of a table with what names each, and those that are lists."""
    data = recipe.data
    if role in ("users", "items"):
        layout, id_feature = entity_of(recipe, role)
        column = data.user_row if role == "users" else data.item_row
        entity = role.removesuffix("s")
        names = dict.fromkeys(feature_columns(layout, id_feature), f"features.{entity}")
        return {column: f"data.{entity}_id"} | names, list_columns(layout)
    if role == "behaviours":
        ids = {data.user_row: "data.user_id", data.item_row: "data.item_id", data.time_ms: "data.time_ms"}
        return ids | dict.fromkeys(("action", "scene"), "features.behaviour"), frozenset()
    layouts = Layouts.of(recipe.features)
    return impression_columns(recipe), list_columns(layouts.context) | list_columns(layouts.candidate)


def entity_of(recipe: Recipe, role: str) -> tuple[RowLayout, str | None]:
    """The layout of users or items, and the feature that is the id; served rows have the id as another column."""
    schema = recipe.features
    features = schema.user if role == "users" else schema.item
    id_feature = schema.user_id_feature if role == "users" else schema.item_id_feature
    return RowLayout(features), None if recipe.data.served else id_feature


def require_columns(recipe: Recipe, tables: Mapping[str, Table]) -> None:
    """Raise TableError unless every file has the columns that are read of its table."""
    for role, table in tables.items():
        if role not in ROLES:
            continue
        for column, key in columns_of(recipe, role)[0].items():
            everywhere = key in ("data.user_id", "data.item_id", "data.time_ms")
            table.require({column: key}, f"; {key} names the column in all tables" if everywhere else "")


def encode_file(source: FileToEncode, folder: Path) -> list[int]:
    """Write the arrays of a file into `folder`; return the rows of each batch. Raises TableError."""
    if source.role == "impressions":
        return _encode_impressions(source, folder)
    if source.role == "behaviours":
        return _encode_behaviours(source, folder)
    return _encode_entities(source, folder)


def _encode_entities(source: FileToEncode, folder: Path) -> list[int]:
    recipe = source.recipe
    layout, id_feature = entity_of(recipe, source.role)
    column = recipe.data.user_row if source.role == "users" else recipe.data.item_row
    columns, lists = columns_of(recipe, source.role)
    with closing(PartitionWriter(folder, {"keys": KEY, "rows": layout.dtype})) as writer:
        for batch in source.batches(list(columns), lists):
            rows = packed_rows(layout, batch, id_feature, column, served=recipe.data.served)
            writer.add(len(batch), {"keys": id_keys(batch, column), "rows": rows})
    return writer.batches


def _encode_impressions(source: FileToEncode, folder: Path) -> list[int]:
    """Encode the rows that are in a part of the split; the parts themselves are no part of the result."""
    recipe = source.recipe
    layouts = Layouts.of(recipe.features)
    assert source.used is not None
    path, first = source.used
    parts = read_array(path, PART_TYPE)
    columns, lists = columns_of(recipe, "impressions")
    users = _DistinctIds(recipe, "users")
    items = _DistinctIds(recipe, "items")
    with closing(PartitionWriter(folder, impression_types(recipe))) as writer:
        for batch in source.batches(list(columns), lists):
            begin = first + batch.first_row
            used = batch.selection(np.flatnonzero(parts[begin : begin + len(batch)] >= 0))
            user = users.add(used, recipe.data.user_row)
            item = items.add(used, recipe.data.item_row)
            encoded = {"user": user, "item": item} | dict(encoded_columns(used, recipe, layouts))
            writer.add(len(used), encoded)
    users.write(folder, "user")
    items.write(folder, "item")
    return writer.batches


def _encode_behaviours(source: FileToEncode, folder: Path) -> list[int]:
    recipe = source.recipe
    data = recipe.data
    schema = recipe.features.behaviour
    assert schema is not None
    items = _DistinctIds(recipe, "items")
    users = KnownKeys()
    dtypes: dict[str, DTypeLike] = dict.fromkeys(("user", "item", "time", "action", "scene"), np.int64)
    with closing(PartitionWriter(folder, dtypes)) as writer:
        for batch in source.batches([data.user_row, data.item_row, "action", "scene", data.time_ms]):
            encoded = {"time": batch.times(data.time_ms, latest_now_ms())}
            encoded["user"] = id_keys(batch, data.user_row, users)
            encoded["item"] = items.add(batch, data.item_row)
            for name, vocabulary in (("action", schema.action_vocabulary), ("scene", schema.scene_vocabulary)):
                encoded[name] = batch.keys(name, partial(keys_of_column, vocabulary, field=name))
            writer.add(len(batch), encoded)
    items.write(folder, "item")
    return writer.batches


class _DistinctIds:
    """Collects the ids of a file, for those that have no row in their table: they get one with their own id."""

    def __init__(self, recipe: Recipe, role: str) -> None:
        layout, name = entity_of(recipe, role)
        feature = None if name is None else next(f for f in layout.features if f.name == name)
        assert feature is None or isinstance(feature, Categorical)
        self._feature = feature
        self._hashed = KnownKeys()
        self._known = np.zeros(0, dtype=KEY)  # ascending
        self._keys: list[np.ndarray] = []
        self._features: list[np.ndarray] = []
        self._waiting = 0

    def add(self, batch: Batch, column: str) -> np.ndarray:
        """Return the key of each id, int64 `[n]`. Raises TableError."""
        keys = id_keys(batch, column, self._hashed)
        distinct, first = np.unique(keys, return_index=True)
        new = np.ones(len(distinct), dtype=bool)
        if len(self._known):
            # A search costs what the batch has; numpy.isin would sort all known ids for every batch.
            place = np.minimum(np.searchsorted(self._known, distinct), len(self._known) - 1)
            new = self._known[place] != distinct
        if not new.any():
            return keys
        features = np.zeros(int(new.sum()), dtype=KEY)
        if self._feature is not None:
            raw = batch.categories(column)[first[new]]
            features = keys_of_column(self._feature.vocabulary_name, raw, self._feature.name, self._feature.part_of)
        self._keys.append(distinct[new])
        self._features.append(features)
        # Known ids are put together now and then; an id that is collected twice meanwhile counts once in the end.
        self._waiting += len(features)
        if self._waiting > len(self._known):
            self._known = sorted_distinct(np.concatenate(self._keys))
            self._waiting = 0
        return keys

    def write(self, folder: Path, entity: str) -> None:
        none = np.zeros(0, dtype=KEY)
        keys, first = np.unique(np.concatenate([none, *self._keys]), return_index=True)
        features = np.concatenate([none, *self._features])[first]
        for name, values in ((f"{entity}_ids", keys), (f"{entity}_id_features", features)):
            with ArrayFile(folder / name, KEY) as file:
                file.append(values)
