"""Tests that no KuaiRand recipe trains on an impression that a feature counts, and that its parts do not overlap."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.recipe import load_recipe
from models.recipe.sections.data import TimeSplit

ROOT = Path(__file__).parents[3]
# The small data have lists of a day and split by those days.
RECIPES = sorted(path for path in (ROOT / "models" / "recipes").glob("kuairand-*.yaml") if "-small" not in path.stem)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_parts_follow_each_other_in_time_and_the_order_in_lists_selects(path):
    recipe = load_recipe(path)
    assert isinstance(recipe.data.split, TimeSplit)
    assert recipe.training.select_on
    # A task that predicts a time is selected by its own error; only probabilities have a GAUC.
    values = [task.name for task in recipe.tasks if task.type in ("d2q", "cread")]
    if values:
        assert list(recipe.training.select_on) == values
        return
    # A list is a day of a user, and counters of the last hours order the impressions of a day by their time.
    metric = "auc(" if recipe.features.counters else "gauc("
    assert all(entry.startswith(metric) for entry in recipe.training.select_on)


@pytest.mark.parametrize(("table", "key", "counted"), [("users", "user_id", "user"), ("items", "item_id", "item")])
def test_no_training_impression_of_the_sample_is_counted_in_a_feature(table, key, counted):
    split = load_recipe(ROOT / "models" / "recipes" / "kuairand-mmoe.yaml").data.split
    sample = ROOT / "sample" / "kuairand"
    impressions = pq.read_table(sample / "impressions.parquet", columns=[key, "time_ms"]).to_pandas()
    before = impressions[impressions.time_ms < split.train[0].timestamp() * 1000].groupby(key).size()
    rows = pq.read_table(sample / f"{table}.parquet", columns=[key, f"{counted}_impressions"]).to_pandas()
    n = np.nan_to_num(rows[f"{counted}_impressions"].to_numpy())
    assert (n <= rows[key].map(before).fillna(0)).all()
    assert n.sum() > 50_000
