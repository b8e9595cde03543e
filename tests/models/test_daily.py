"""Tests the daily comparison: the days that each run reads, and that both ways are measured on the same next day."""

from datetime import timedelta

import pytest

from models.daily import FULL, WARM, daily_splits, table_of, train_daily
from models.recipe import RecipeError
from models.training.run import open_run


def test_every_hour_before_the_evening_is_trained_on_once_and_no_later_one(tiny_recipe):
    split = tiny_recipe().data.split
    splits = daily_splits(split, 3)
    assert [one.day for one in splits] == [f"2022-05-0{i}" for i in range(1, 8)]
    assert splits[0].new[0] == split.train[0]
    for former, one in zip(splits, splits[1:], strict=False):
        assert one.new[0] == former.new[1] == former.validation[0]
    for one in splits:
        assert one.every == (split.train[0], one.new[1])
        assert one.validation[1] == one.test[0] == one.validation[0] + timedelta(hours=3)
        assert one.test[1] - one.test[0] == timedelta(days=1)


@pytest.mark.slow
def test_both_ways_are_measured_on_the_same_day_and_the_continued_run_reads_one(tiny_recipe, tmp_path):
    first = {
        "train": ["2022-05-01T00:00:00+08:00", "2022-05-02T00:00:00+08:00"],
        "validation": ["2022-05-02T00:00:00+08:00", "2022-05-03T00:00:00+08:00"],
        "test": ["2022-05-03T00:00:00+08:00", "2022-05-04T00:00:00+08:00"],
    }
    recipe = tiny_recipe(changes={f"data.split.{part}": times for part, times in first.items()})
    result = train_daily(recipe, tmp_path / "daily", tmp_path / "cache", 6, 1)
    one, two = (day["ways"] for day in result["days"])
    assert list(one) == [FULL]
    assert two[WARM]["rows"] < two[FULL]["rows"]
    assert two[WARM]["outputs"].keys() == two[FULL]["outputs"].keys()
    start = open_run(tmp_path / "daily" / f"{WARM}-2022-05-02").provenance["started_from"]
    assert start["run"].endswith(f"{FULL}-2022-05-01")
    assert "| 2022-05-02 | continued |" in table_of(result)
    assert train_daily(recipe, tmp_path / "daily", tmp_path / "cache", 6, 1) == result


def test_a_split_without_times_or_with_too_few_days_is_refused(tiny_recipe, tmp_path):
    split = tiny_recipe().data.split
    with pytest.raises(RecipeError, match="fewer than two days"):
        daily_splits(split.model_copy(update={"test": (split.train[0], split.train[0] + timedelta(days=2))}), 3)
    by_column = tiny_recipe(changes={"data.split": {"by": "column", "column": "part"}})
    with pytest.raises(RecipeError, match="split by time"):
        train_daily(by_column, tmp_path / "daily", tmp_path / "cache", 3, 1)
