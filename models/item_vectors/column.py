"""Writes the items table of a recipe with a column of vectors beside the others."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from pydantic import ValidationError

from features import Vector
from features.files.unfinished import remove_abandoned, unfinished_folder
from features.files.writing import naming_full_disk, replacing
from features.times import LATEST_MS, latest_now_ms
from models.data.encoding.entities import id_keys
from models.data.split import Splitter, split_columns
from models.data.tables import data_folder, open_role
from models.item_vectors.errors import VectorsError
from models.item_vectors.sentences import Sentences, read_sentences
from models.item_vectors.skip_gram import ItemVectors, SkipGram, learn_vectors
from models.prepare.write import write_table
from models.recipe import Recipe, RecipeError
from models.recipe.sections.data import DataSection, TimeSplit
from tables import Table, TableError
from tables.files.csv_files import LIST_SEPARATOR

_UNFINISHED = ".item-vectors-"
_ROWS = 1 << 20


def write_item_vectors(recipe: Recipe, out: Path, column: str, settings: SkipGram, quiet: bool = False) -> list[str]:
    """Learn vectors from the recipe's behaviours, and write its items table with them to `out`, whole or not at all.

    An item without a vector has null. Returns lines that say what was written. Raises RecipeError, TableError and
    VectorsError.
    """
    # Check what can be checked before minutes of work.
    data = recipe.data
    source = data_folder(data)
    items = _items(recipe, source, out, column)
    behaviours = _behaviours(data, source)
    before_ms = end_of_training(data, source)
    # What is sorted and learnt from lies beside the result meanwhile.
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(out.parent, f"{_UNFINISHED}*")
    with unfinished_folder(out.parent, _UNFINISHED) as folder, naming_full_disk(out.parent):
        sentences = read_sentences(behaviours, data, before_ms, folder, quiet)
        if not len(sentences.items):
            problem = f"no behaviour is older than {_shown(before_ms)}, where the training part of data.split ends"
            raise RecipeError(f"data.behaviours: {problem}", ("data", "behaviours"))
        vectors = learn_vectors(sentences, settings, quiet)
        used = _summary(sentences, before_ms)
    # Find the vector of each row by the key of its item.
    none = np.zeros(0, dtype=np.int64)
    keys = np.concatenate([none, *(id_keys(batch, data.item_id) for batch in items.batches([data.item_id]))])
    places = vectors.places(keys)
    with_vector = int((places >= 0).sum())
    if not with_vector:
        problem = "no item with a vector has a row in the table; data.item_id names the column in all tables"
        raise TableError(f"column '{data.item_id}': {problem}", items.path, "items", data.item_id)
    _write(items, out, column, places, vectors)
    return [f"{out}: {len(keys):,} items, {with_vector:,} with {settings.width} numbers in '{column}'", used]


def _write(items: Table, out: Path, column: str, places: np.ndarray, vectors: ItemVectors) -> None:
    """Write the table with the vectors at `places` int64 `[rows]`; a row of place -1 has none."""
    table = items.as_stored()
    if not items.is_csv:
        write_table(table.append_column(column, _lists(places, vectors)), out)
        return
    with replacing(out) as unfinished:
        pa_csv.write_csv(table.append_column(column, pa.array(_texts(places, vectors), pa.string())), unfinished)


def _items(recipe: Recipe, source: str, out: Path, column: str) -> Table:
    """Open the items table, and check that the result may be written."""
    data = recipe.data
    try:
        Vector(name=column, type="vector", width=1)
    except ValidationError:
        problem = "a feature's name has at most 64 letters, digits and _, and begins with a letter"
        raise VectorsError(f"--column '{column}': {problem}") from None
    if data.served:
        problem = "the tables hold rows as they were served; name a recipe of the tables that are loaded into the store"
        raise RecipeError(f"data.served: {problem}", ("data", "served"))
    if data.items is None:
        raise RecipeError("data.items is null, but the vectors are a column of that table", ("data", "items"))
    items = open_role(source, "items", data.items, data.how_to_get)
    suffix = ".csv" if items.is_csv else ".parquet"
    if out.suffix != suffix:
        raise VectorsError(f"--out {out}: the items table is written as it is read; name it '{out.stem}{suffix}'")
    items.require({data.item_id: "data.item_id"}, "; data.item_id names the column in all tables")
    if column in items.columns:
        problem = f"column '{column}' exists already; choose another --column, or name the table without it"
        raise TableError(problem, items.path, "items", column)
    if not items.is_one_file and out.resolve().is_relative_to(Path(items.place).resolve()):
        raise VectorsError(f"--out {out}: it lies in the folder of the items table, and would be one more file of it")
    return items


def _behaviours(data: DataSection, source: str) -> Table:
    if data.behaviours is None:
        problem = "data.behaviours is null, but the vectors are learnt from behaviours"
        raise RecipeError(problem, ("data", "behaviours"))
    return open_role(source, "behaviours", data.behaviours, data.how_to_get)


def end_of_training(data: DataSection, source: str) -> int:
    """The time in milliseconds from which on no behaviour is read: the end of the training part.

    A split by a column has no times, so it is the time after the last impression of the training part, or that of the
    first one of the other parts, if that is earlier. Raises TableError and RecipeError.
    """
    if isinstance(data.split, TimeSplit):
        return round(data.split.train[1].timestamp() * 1000)
    impressions = open_role(source, "impressions", data.impressions)
    columns = {data.time_ms: "data.time_ms"} | split_columns(data)
    impressions.require(columns)
    splitter = Splitter(data)
    after_training = 0
    first_of_others = LATEST_MS
    for batch in impressions.batches(list(columns)):
        part = splitter.part_of(batch)
        times = batch.times(data.time_ms, latest_now_ms())
        after_training = max(after_training, int(times[part == 0].max(initial=-1)) + 1)
        first_of_others = min(first_of_others, int(times[part > 0].min(initial=LATEST_MS)))
    splitter.unmatched()
    return min(after_training, first_of_others)


def _shown(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")


def _summary(sentences: Sentences, before_ms: int) -> str:
    users = len(sentences.starts) - 1
    read = f"learnt from {len(sentences.items):,} behaviours of {users:,} users before {_shown(before_ms)}"
    return f"{read}, without repeats; {sentences.later:,} later ones were left out"


def _texts(places: np.ndarray, vectors: ItemVectors) -> list[str | None]:
    """The numbers of each row as a CSV has them, `0.5|-1.0`: every digit, so that the same float32 is read again."""
    texts = [LIST_SEPARATOR.join(map(repr, vector)) for vector in vectors.vectors.tolist()]
    return [texts[place] if place >= 0 else None for place in places.tolist()]


def _lists(places: np.ndarray, vectors: ItemVectors) -> pa.ChunkedArray:
    """A list of float32 per row, null where the place is -1."""
    return pa.chunked_array(list(_chunks(places, vectors)), pa.list_(pa.float32()))


def _chunks(places: np.ndarray, vectors: ItemVectors) -> Iterator[pa.Array]:
    width = vectors.vectors.shape[1]
    for begin in range(0, len(places), _ROWS):
        chunk = places[begin : begin + _ROWS]
        present = chunk >= 0
        offsets = np.concatenate([[0], np.cumsum(present * width)]).astype(np.int32)
        numbers = vectors.vectors[chunk[present]].ravel()
        mask = pa.array(~present)
        yield pa.ListArray.from_arrays(pa.array(offsets), pa.array(numbers, pa.float32()), mask=mask)
