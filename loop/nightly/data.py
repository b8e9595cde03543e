"""Prepares the data of a nightly run: joined tables, split so that the newest hours are for the comparison alone."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from features.files.writing import replacing, write_whole
from loop.errors import LogError
from loop.join.delays import delayed_conversion
from loop.join.join import RECIPE_FILE
from loop.nightly.config import CompareSection
from models.recipe import Recipe, load_recipe

_VALIDATION = 0.1  # of the impressions that are not for the comparison
_HOUR_MS = 3_600_000


def split_by_newest(data: Path, out: Path, section: CompareSection) -> dict[str, str]:
    """Write the recipe of the joined tables in `data` to `out`, with a split by time. Gives the borders of the parts.

    The impressions of the last `newest_h` hours test; of those before, the last tenth validates. Raises LogError if
    these are too few to compare on, or too few are left to train on.
    """
    newest_h = section.newest_h
    recipe = load_recipe(data / RECIPE_FILE)
    if delayed_conversion(recipe) is not None:
        raise LogError(
            "a task with `delay` trains on labels that are still open, on which a night cannot compare: run "
            "`funnelrank join`, `train` and `export`"
        )
    times = np.sort(impression_times(data, recipe))
    last = int(times[-1])
    test = last + 1 - round(newest_h * _HOUR_MS)
    before = times[times < test]
    if not len(before):
        hours = (last - int(times[0])) / _HOUR_MS
        raise LogError(
            f"the impressions with closed labels span {hours:.3g} h, and compare.newest_h takes {newest_h:g} of them: "
            "nothing is left to train on"
        )
    compared = len(times) - len(before)
    if compared < section.min_impressions:
        raise LogError(
            f"the newest {newest_h:g} h have {compared:,} impressions with closed labels, and "
            f"compare.min_impressions asks for {section.min_impressions:,}"
        )
    first = int(before[0])
    validation = int(before[int(len(before) * (1 - _VALIDATION))])
    if not first < validation < test:
        raise LogError(f"{len(before):,} impressions before the last {newest_h:g} h are too few to train on")
    ends = [_iso(time_ms) for time_ms in (first, validation, test, last + 1)]
    parts = {name: [ends[at], ends[at + 1]] for at, name in enumerate(("train", "validation", "test"))}
    raw: dict[str, Any] = recipe.model_dump(mode="json")
    raw["data"]["split"] = {"by": "time", **parts}
    write_whole(out, yaml.safe_dump(raw, sort_keys=False, allow_unicode=True).encode())
    return {name: " to ".join(each) for name, each in parts.items()}


def shuffle_labels(data: Path, recipe: Recipe, seed: int = 0) -> None:
    """Permute the labels of all impressions that train or validate, as a control: nothing can be learned from them.

    The labels of one impression stay together, and those of the test part stay where they are.
    """
    path = data / "impressions.parquet"
    table = pq.read_table(path)
    (start, _) = recipe.data.split.test
    assert isinstance(start, datetime)
    times = table.column(recipe.data.time_ms).to_numpy()
    trained = np.flatnonzero(times < start.timestamp() * 1000)
    places = np.arange(len(table))
    places[trained] = np.random.default_rng(seed).permutation(trained)
    for name in recipe.label_columns:
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), table.column(at).take(pa.array(places)))
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def impression_times(data: Path, recipe: Recipe) -> np.ndarray:
    """The times of the joined impressions in `data`, int64 `[n]`, in the table's order."""
    name = recipe.data.time_ms
    return np.asarray(pq.read_table(data / "impressions.parquet", columns=[name]).column(name).to_numpy())


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
