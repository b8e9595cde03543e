"""Turns packed keys into embedding rows on disk: of users, items, impressions and behaviours."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from features import RowLayout
from features.schemas.schema import DERIVED
from models.data.arrays import ArrayFile, read_array
from models.data.encoding.encoding import Encoding
from models.data.encoding.packed import item_key_columns, item_numeric_columns, packed_group
from models.data.encoding.vocabulary import behaviour_column_vocabularies, key_column_vocabularies, totalled
from models.data.split import PARTS
from models.data.stored.ordered import in_order
from models.recipe import Recipe, RecipeError

CHUNK = 1 << 16
IMPRESSION_GROUPS = ("context", "candidate", DERIVED)  # features of an impression, not of its user or item


def write_rows(
    recipe: Recipe,
    folder: Path,
    encoding: Encoding,
    packed: Mapping[str, np.ndarray],
    events: np.ndarray | None,
    counts: Mapping[str, int],
) -> int:
    """Turn packed keys into embedding rows on disk; return the number of cross values of the position in training."""
    for group, rows in packed.items():
        _write_group(folder / f"{group}s", rows, encoding, group, recipe.data.threads)
    for part in PARTS:
        for group in IMPRESSION_GROUPS:
            rows = packed_group(recipe, folder, part, group, counts[part])
            _write_group(folder / f"{part}.{group}", rows, encoding, group, recipe.data.threads)
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

        def encoded(begin: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            chunk = np.array(events[begin : begin + CHUNK])
            action_and_scene = np.stack([chunk["action"], chunk["scene"]], axis=1)
            of_event = encoding.vocabulary.rows_of_columns(action_and_scene, names)
            of_item = item_rows[chunk["item"]]
            return (
                np.concatenate([of_item, of_event], axis=1),
                items["numerics"][chunk["item"]][:, columns],
                chunk["time"],
            )

        for arrays in in_order(encoded, range(0, len(events), CHUNK), recipe.data.threads):
            for file, values in zip((rows, numerics, times), arrays, strict=True):
                file.append(values)


def _write_group(path: Path, packed: np.ndarray, encoding: Encoding, group: str, threads: int) -> None:
    names = key_column_vocabularies(encoding.schema.group(group))

    def encoded(begin: int) -> tuple[np.ndarray, np.ndarray]:
        chunk = packed[begin : begin + CHUNK]
        return encoding.vocabulary.rows_of_columns(chunk["keys"], names), chunk["numerics"]

    with ArrayFile(Path(f"{path}_rows"), np.int32) as rows, ArrayFile(Path(f"{path}_numerics"), np.float32) as numerics:
        for rows_of_chunk, numbers in in_order(encoded, range(0, len(packed), CHUNK), threads):
            rows.append(rows_of_chunk)
            numerics.append(numbers)


def _write_cross(recipe: Recipe, folder: Path) -> int:
    if recipe.position is None:
        return 0
    column = recipe.position.column
    if not np.any(read_array(folder / "train.position", np.int32)):
        problem = f"no impression of the training part has a position of 1 or more in '{column}'"
        raise RecipeError(f"position.column: {problem}", ("position", "column"), column)
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
