"""The encoded data set: built once per content and schema into a folder of flat arrays, then opened as memory maps."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from features import FeatureSchema, RowLayout
from features.files.unfinished import finish, remove_abandoned, unfinished_folder
from features.files.writing import naming_full_disk
from features.schemas.schema import DERIVED
from models.data.arrays import read_array
from models.data.build import build
from models.data.counting.counters import read_counters
from models.data.encoding.encoding import Encoding, load_encoding
from models.data.encoding.labels import refuse_times
from models.data.encoding.packed import item_key_columns, item_numeric_columns
from models.data.key import key_of
from models.data.requests import read_within
from models.data.sampling import trained_rows
from models.data.spaces import refuse_empty_spaces
from models.data.split import PARTS
from models.data.tables import data_folder, table_hashes, tables_of
from models.recipe import Recipe, RecipeError
from models.recipe.sections.data import source_column
from tables import TableError

DEFAULT_CACHE = Path("runs/cache")


@dataclass(frozen=True)
class Part:
    """Impressions of one part, arrays over `n` rows: labels float32 `[n, labels]`, visible events [start, end).

    `within` float32 `[n, 2K]`: the item compared with the others of its request, if the schema asks for it.
    `counters` float32 `[n, K]`: the numbers of the schema's counters, if it has any.
    `weights` float32 `[n, W]`: the recipe's columns of weights, if it has any.
    `derived_rows` and `derived_numerics`: the derived features, of width 0 if there are none.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    request: np.ndarray | None
    start: np.ndarray
    end: np.ndarray
    context_rows: np.ndarray
    context_numerics: np.ndarray
    candidate_rows: np.ndarray
    candidate_numerics: np.ndarray
    derived_rows: np.ndarray
    derived_numerics: np.ndarray
    labels: np.ndarray
    position: np.ndarray | None
    position_cross: np.ndarray | None
    within: np.ndarray | None = None
    counters: np.ndarray | None = None
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.user)


def lists_of(part: Part) -> np.ndarray:
    """The list of each impression, int `[n]`: its request, or its user if the recipe names no request."""
    return part.user if part.request is None else part.request


@dataclass(frozen=True)
class Behaviours:
    """All events by user and time; the first event is padding (all 0).

    Embedding rows int32 `[n, K + 2]`, numerics float32 `[n, N]`, times int64 `[n]`.
    """

    rows: np.ndarray
    numerics: np.ndarray
    time: np.ndarray


@dataclass(frozen=True)
class Data:
    """An opened data set.

    `described` is the description for metrics.json (tables, hash, rows, repeats, missing rows); `kept_rows` is a file
    of raw rows for the exporter; `earlier` is the encoding that this one continues, if the training continues a run.
    """

    recipe: Recipe
    encoding: Encoding
    user_rows: np.ndarray
    user_numerics: np.ndarray
    item_rows: np.ndarray
    item_numerics: np.ndarray
    behaviours: Behaviours | None
    parts: Mapping[str, Part]
    cross_values: int
    kept_rows: Path
    described: Mapping[str, Any]
    earlier: Encoding | None = None

    @cached_property
    def trained_rows(self) -> np.ndarray | None:
        """The impressions of the training part that are trained on, int64 `[m]`; None if all are. Raises RecipeError.

        Computed once: each epoch, the weights, the number of steps and the report read them.
        """
        part = self.parts["train"]
        return trained_rows(self.recipe, part.labels, (part.user, part.item, part.time))

    @property
    def trained_count(self) -> int:
        """The number of impressions that an epoch trains on. Raises RecipeError."""
        return len(self.parts["train"]) if self.trained_rows is None else len(self.trained_rows)


def labels_of(data: Data, part: str, columns: Sequence[str]) -> np.ndarray:
    """The AND (product) of label columns, float32 `[n]`; all ones if there is no column."""
    labels = data.parts[part].labels
    names = data.recipe.label_columns
    product = np.ones(len(labels), dtype=np.float32)
    for column in columns:
        product *= labels[:, names.index(column)]
    return product


def open_data(recipe: Recipe, cache: Path = DEFAULT_CACHE, earlier: Encoding | None = None) -> Data:
    """Open the recipe's data; first encode it, if this content and schema are not in the cache yet.

    `earlier`: the encoding of the recipe's schema that is continued; without it a new one is fitted.

    Raises RecipeError, whose cause is a TableError if a table does not fit.
    """
    try:
        return _encoded(recipe, cache, earlier)
    except TableError as error:
        raise RecipeError(str(error), name=_named(recipe, error.column)) from error


def _named(recipe: Recipe, column: str | None) -> str | None:
    """Return the name of a column in the recipe. A label may be the logarithm of a column."""
    labels = {source_column(label): label for label in recipe.label_columns}
    return None if column is None else labels.get(column, column)


def _encoded(recipe: Recipe, cache: Path, earlier: Encoding | None) -> Data:
    source = data_folder(recipe.data)
    tables = tables_of(recipe, source)
    refuse_times(recipe, tables["impressions"])
    hashes = table_hashes(tables)
    key = key_of(recipe, hashes, earlier)
    folder = cache / key
    if not (folder / "described.json").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        remove_abandoned(cache, "*.*")
        with unfinished_folder(cache, f"{key}.") as unfinished:
            with naming_full_disk(cache):
                described = build(recipe, tables, unfinished, cache, earlier) | {"tables": hashes, "hash": key}
                (unfinished / "described.json").write_text(json.dumps(described, indent=1, allow_nan=False))
            try:
                finish(unfinished, folder)
            except OSError:  # another process has just built the same
                if not (folder / "described.json").is_file():
                    raise
    data = replace(_open(recipe, folder, source), earlier=earlier)
    refuse_empty_spaces(recipe, {name: part.labels for name, part in data.parts.items()})
    return data


def _open(recipe: Recipe, folder: Path, source: str) -> Data:
    described = json.loads((folder / "described.json").read_text()) | {
        "folder": source
    }  # it may have been built from a copy elsewhere
    # Memory maps of what `build` wrote.
    users = _group(folder / "users", recipe.features, "user", described["users"]["rows"])
    items = _group(folder / "items", recipe.features, "item", described["items"]["rows"])
    behaviours = None
    if recipe.features.behaviour is not None:
        behaviours = Behaviours(
            rows=read_array(folder / "events.rows", np.int32, len(item_key_columns(recipe)) + 2),
            numerics=read_array(
                folder / "events.numerics",
                np.float32,
                len(item_numeric_columns(recipe)),
                described["behaviours"]["rows"] + 1,
            ),
            time=read_array(folder / "events.time", np.int64),
        )
    parts = {part: _open_part(recipe, folder, part, described["impressions"][part]) for part in PARTS}
    encoding = load_encoding(folder / "encoding.npz")
    return Data(
        recipe,
        encoding,
        *users,
        *items,
        behaviours,
        parts,
        described["cross_values"],
        folder / "kept_rows.npz",
        described,
    )


def _group(path: Path, schema: FeatureSchema, group: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    layout = RowLayout(schema.group(group))
    keys = read_array(Path(f"{path}_rows"), np.int32, layout.key_width, rows)
    return keys, read_array(Path(f"{path}_numerics"), np.float32, layout.numeric_width, rows)


def _open_part(recipe: Recipe, folder: Path, part: str, n: int) -> Part:
    context_rows, context_numerics = _group(folder / f"{part}.context", recipe.features, "context", n)
    candidate_rows, candidate_numerics = _group(folder / f"{part}.candidate", recipe.features, "candidate", n)
    derived_rows, derived_numerics = _group(folder / f"{part}.{DERIVED}", recipe.features, DERIVED, n)
    positioned = recipe.position is not None
    weights = len(recipe.data.weight_columns)
    return Part(
        user=read_array(folder / f"{part}.user", np.int32),
        item=read_array(folder / f"{part}.item", np.int32),
        time=read_array(folder / f"{part}.time", np.int64),
        request=read_array(folder / f"{part}.request", np.int64) if recipe.data.request_id else None,
        start=read_array(folder / f"{part}.start", np.int64),
        end=read_array(folder / f"{part}.end", np.int64),
        context_rows=context_rows,
        context_numerics=context_numerics,
        candidate_rows=candidate_rows,
        candidate_numerics=candidate_numerics,
        derived_rows=derived_rows,
        derived_numerics=derived_numerics,
        labels=read_array(folder / f"{part}.labels", np.float32, len(recipe.label_columns), n),
        position=read_array(folder / f"{part}.position", np.int32) if positioned else None,
        position_cross=read_array(folder / f"{part}.position_cross", np.int32) if positioned else None,
        within=read_within(recipe, folder, part, n),
        counters=read_counters(recipe, folder, part, n),
        weights=read_array(folder / f"{part}.weights", np.float32, weights, n) if weights else None,
    )
