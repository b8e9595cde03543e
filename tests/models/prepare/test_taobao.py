"""Tests Taobao's tables: labels come after their view and within the window, features before it; users are whole."""

from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest

from funnelrank.main import main
from models.data.cache import open_data
from models.prepare.taobao import COLUMNS, EXTRACT, ORIGINAL, USERS, prepare_taobao
from models.recipe import RecipeError, load_recipe

RECIPES = Path(__file__).parents[3] / "models" / "recipes"


def seconds(day, clock="12:00:00"):
    return int(datetime.fromisoformat(f"2017-{day}T{clock}+08:00").timestamp())


EVENTS = [
    (1, 10, 7, "pv", seconds("11-24")),  # before the log's nine days
    (1, 10, 7, "pv", seconds("11-25")),
    (1, 10, 7, "cart", seconds("11-26", "23:59:59")),
    (1, 10, 7, "pv", seconds("11-27", "00:00:00")),  # nothing follows within six hours
    (1, 10, 7, "cart", seconds("11-27", "06:00:01")),
    (1, 11, 7, "pv", seconds("11-28")),  # another item of the category is bought
    (1, 11, 7, "pv", seconds("11-28")),  # repeated in every column
    (1, 12, 7, "buy", seconds("11-28", "18:00:00")),
    (1, 13, 8, "buy", seconds("11-29", "10:00:00")),
    (1, 13, 8, "fav", seconds("11-29", "12:00:00")),
    (1, 13, 8, "pv", seconds("11-29", "12:00:00")),  # in the same second as the wish, after the purchase
    (1, 10, 7, "pv", seconds("12-03", "17:59:59")),
    (1, 10, 7, "fav", seconds("12-03", "20:00:00")),
    (1, 10, 7, "pv", seconds("12-03", "18:00:00")),  # its six hours are not over when the log ends
    (2, 10, 7, "buy", seconds("11-27", "01:00:00")),  # somebody else's
    (2, 10, 7, "pv", seconds("11-25")),
    (3, 14, 9, "pv", seconds("11-28")),  # the last user, who may be cut off
]


@pytest.fixture
def tables(tmp_path):
    pd.DataFrame(EVENTS).to_csv(tmp_path / ORIGINAL, header=False, index=False)
    prepare_taobao(tmp_path, tmp_path / "out")
    return {path.stem: pd.read_parquet(path) for path in (tmp_path / "out").glob("*.parquet")}


def test_a_view_is_labelled_by_what_its_user_does_within_six_hours_after_it(tables):
    impressions = tables["impressions"]
    labels = ["action", "buy", "action_in_category", "buy_in_category"]
    counts = {
        (row.item_id, row.time_ms // 1000): tuple(getattr(row, name) for name in labels)
        for row in impressions.itertuples()
    }
    assert counts == {
        (10, seconds("11-27", "00:00:00")): (0, 0, 0, 0),
        (11, seconds("11-28")): (0, 0, 0, 1),
        (13, seconds("11-29")): (0, 0, 0, 0),
        (10, seconds("12-03", "17:59:59")): (1, 0, 1, 0),
    }
    assert (impressions["click"] == 1).all(), "there are no impressions without a click in the log"
    assert impressions["hour"].tolist() == [0, 12, 12, 17]


def test_counts_end_before_the_first_impression(tables):
    items = tables["items"].set_index("item_id")
    assert items.loc[10, ["item_pv", "item_cart", "item_fav", "item_buy"]].tolist() == [2, 1, 0, 0]
    assert items.loc[11, ["item_pv", "category_pv", "category_cart", "category_buy"]].tolist() == [0, 2, 1, 0]
    users = tables["users"].set_index("user_id")
    assert users.loc[1].tolist() == [1, 1, 0, 0]
    assert users.loc[2].tolist() == [1, 0, 0, 0]


def test_the_last_user_and_other_days_are_left_out_and_repeated_rows_count_once(tables):
    behaviours = tables["behaviours"]
    assert set(behaviours["user_id"]) == set(tables["users"]["user_id"]) == {1, 2}
    assert len(behaviours) == len(EVENTS) - 3
    assert behaviours["action"].astype(str).value_counts().to_dict() == {"pv": 7, "buy": 3, "cart": 2, "fav": 2}
    assert behaviours[behaviours["user_id"] == 2]["time_ms"].is_monotonic_increasing


def test_the_download_is_read_for_the_first_users_alone_and_gives_what_the_extract_gives(tmp_path):
    one_each = [(user, user, user % 5, "pv", seconds("11-28")) for user in range(1, USERS + 40)]
    whole = tmp_path / "whole"
    extract = tmp_path / "extract"
    for folder in (whole, extract):
        folder.mkdir()
    pd.DataFrame(one_each).to_csv(whole / ORIGINAL, header=False, index=False)
    pd.DataFrame(one_each[:USERS], columns=list(COLUMNS)).to_parquet(extract / EXTRACT)
    expected = {"users": USERS - 1, "items": USERS - 1, "behaviours": USERS - 1, "impressions": USERS - 1}
    assert prepare_taobao(whole, whole / "out") == prepare_taobao(extract, extract / "out") == expected
    for name in expected:
        pd.testing.assert_frame_equal(
            pd.read_parquet(whole / "out" / f"{name}.parquet"), pd.read_parquet(extract / "out" / f"{name}.parquet")
        )


def test_where_the_log_comes_from_is_said_when_it_is_missing(tmp_path, capsys):
    assert main(["prepare", "taobao", "--source", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    stderr = capsys.readouterr().err
    assert ORIGINAL in stderr and "tianchi.aliyun.com" in stderr


def test_a_recipe_without_its_tables_says_how_to_get_them(tmp_path):
    recipe = load_recipe(RECIPES / "taobao-esm2.yaml", (f"data.dir={tmp_path}",))
    with pytest.raises(
        RecipeError, match=r"no '.*impressions.parquet'; download .*tianchi.*python -m models.prepare taobao"
    ):
        open_data(recipe, tmp_path / "cache")


def test_a_behaviour_that_the_log_does_not_have_is_refused(tmp_path, capsys):
    pd.DataFrame([(1, 10, 7, "like", seconds("11-28")), (2, 10, 7, "pv", seconds("11-28"))]).to_csv(
        tmp_path / ORIGINAL, header=False, index=False
    )
    assert main(["prepare", "taobao", "--source", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "'like'" in capsys.readouterr().err
