"""Tests that a model with counters trains and exports, and which rows of a log its counters count."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_tables import RECIPE, make_tables, merged, write_tables

from export.bundle import export_run
from models.data.cache import open_data
from models.recipe import RecipeError, parse_recipe
from models.train import train

COUNTERS: list[dict[str, Any]] = [
    {"name": "item_likes", "statistic": "count", "by": "item", "actions": ["click"], "transform": "log1p", "bins": 4}
    | {"window_s": 86_400, "bucket_s": 3600},
    {"name": "user_shown", "statistic": "count", "by": "user", "actions": ["impression"]}
    | {"window_s": 86_400, "bucket_s": 3600},
]
CHANGES = {"features.counters": COUNTERS, "training.epochs": 1, "training.evaluations_per_epoch": 1}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_tables(folder, make_tables())
    return folder


def test_a_model_with_counters_trains_and_exports_with_an_input_of_their_numbers(tables: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(merged(RECIPE, CHANGES | {"data.dir": str(tables)}), "test")
    train(recipe, tmp_path / "run", cache=tmp_path / "cache", reading_steps=0, quiet=True)
    manifest = export_run(tmp_path / "run", tmp_path / "registry", version=None).manifest
    (counted,) = [i for i in manifest.inputs if i.name == "counter_numerics"]
    assert tuple(counted.shape) == ("C", 2)
    assert [c.name for c in manifest.feature_schema.counters] == ["item_likes", "user_shown"]


def test_an_impression_counts_once_the_lag_has_passed(tables: Path, tmp_path: Path) -> None:
    """Every impression counts the user's earlier ones of the day, those of no part included, never itself."""
    frames = make_tables()
    shown = frames["impressions"]
    for lag_s in (0, 7200):
        changes = CHANGES | {"data.dir": str(tables), "data.counter_lag_s": lag_s}
        data = open_data(parse_recipe(merged(RECIPE, changes), "test"), tmp_path / "cache")
        part = data.parts["test"]
        assert part.counters is not None
        users = shown["user_id"].to_numpy()
        times = shown["time_ms"].to_numpy()
        asked = np.flatnonzero(np.isin(times, part.time))
        by_time = dict(zip(part.time.tolist(), part.counters[:, 1].tolist(), strict=True))
        for place in asked[:50].tolist():
            at = times[place]
            hours = at // 3_600_000 - times // 3_600_000
            counted = (users == users[place]) & (times + lag_s * 1000 < at) & (hours < 24) & (hours >= 0)
            rows = {tuple(row) for row in shown[counted][["user_id", "item_id", "time_ms"]].to_numpy().tolist()}
            assert by_time[int(at)] == len(rows)


def test_a_counter_by_scene_needs_the_scenes_column() -> None:
    scene = COUNTERS[0] | {"name": "scene_likes", "by": "scene"}
    with pytest.raises(RecipeError, match=r"counter 'scene_likes' is kept by scene, which needs data.scene"):
        parse_recipe(merged(RECIPE, {"features.counters": [scene]}), "test")
