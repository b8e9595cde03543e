"""Compares the impressions of each request with each other, for the features that a schema compares."""

from pathlib import Path

import numpy as np

from features.keys import sorted_distinct
from features.within_request import ComparedColumns, within_request
from models.data.arrays import new_array, read_array
from models.data.split import PARTS
from models.data.stored.memory import refuse_beyond
from models.recipe import Recipe, RecipeError

_SORTED_BYTES = 40  # of an impression in memory, while those of a request are put together


def compare_requests(recipe: Recipe, folder: Path, items: np.ndarray) -> None:
    """Write `folder/<part>.within` float32 `[n, 2K]` from packed `items`; nothing if the schema compares no feature.

    Raises RecipeError beyond the memory limit, and if a request is in two parts: its candidates were ranked together,
    but each part would see only some of them.
    """
    compared = ComparedColumns.of(recipe.features)
    if not len(compared):
        return
    most = max((folder / f"{part}.request").stat().st_size // 8 for part in PARTS)
    work = f"comparing {most:,} impressions within their requests"
    refuse_beyond(recipe.data.memory_bytes, most * _SORTED_BYTES, work)
    _refuse_in_two_parts(recipe, folder)
    for part in PARTS:
        request = read_array(folder / f"{part}.request", np.int64)
        item = read_array(folder / f"{part}.item", np.int32)
        order = np.argsort(request, kind="stable")
        bounds = np.flatnonzero(np.diff(request[order])) + 1
        out = new_array(folder / f"{part}.within", np.float32, len(request) * 2 * len(compared))
        rows = out.reshape(len(request), 2 * len(compared))
        # One request after another, with the function that serving uses, so that the bits are the same as online.
        for places in np.split(order, bounds):
            rows[places] = within_request(compared, items["numerics"][item[places]])


def read_within(recipe: Recipe, folder: Path, part: str, n: int) -> np.ndarray | None:
    """Read the result of `compare_requests`, `[n, 2K]`; None if the schema compares no feature."""
    compared = ComparedColumns.of(recipe.features)
    if not len(compared):
        return None
    return read_array(folder / f"{part}.within", np.float32, 2 * len(compared), n)


def _refuse_in_two_parts(recipe: Recipe, folder: Path) -> None:
    by_part = {part: sorted_distinct(read_array(folder / f"{part}.request", np.int64)) for part in PARTS}
    for i, one in enumerate(PARTS):
        for other in PARTS[i + 1 :]:
            both = np.intersect1d(by_part[one], by_part[other], assume_unique=True)
            if len(both):
                raise RecipeError(
                    f"data.split: {len(both):,} requests (data.request_id '{recipe.data.request_id}') lie in both the "
                    f"{one} and the {other} part; within_request compares the candidates of a whole request",
                    ("data", "split"),
                )
