"""Tests the small data: whole lists, the sizes of the parts, no list in two parts, the same result every time."""

from pathlib import Path

import pandas as pd
import pytest

from funnelrank.main import main
from models.prepare import small
from models.recipe import load_recipe

ROOT = Path(__file__).parents[3]
LABELS = {"kuairand": ["is_click", "long_view"], "census": ["income_50k", "never_married"]}


@pytest.fixture(scope="module", params=["kuairand", "census"])
def made(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    assert main(["prepare", "small", "--source", str(ROOT / "sample" / request.param), "--out", str(out)]) == 0
    return request.param, out


def test_the_parts_are_whole_lists_of_about_the_promised_size(made):
    name, out = made
    impressions = pd.read_parquet(out / "impressions.parquet")
    sizes = impressions.groupby("part").size()
    assert 15_950 <= sizes["train"] <= 16_000
    assert 3_950 <= sizes["validation"] <= 4_000
    assert 8_000 <= sizes["test"] <= 20_000
    lists = impressions.groupby("request_id")
    assert (lists["part"].nunique() == 1).all() and (lists["user_id"].nunique() == 1).all()
    assert lists.size().min() == (3 if name == "kuairand" else 10)
    assert not impressions.duplicated(["request_id", "item_id"]).any()
    source = pd.read_parquet(ROOT / "sample" / name / "impressions.parquet")
    if name == "kuairand":
        whole = source.groupby([source.user_id, source.date]).item_id.nunique()
        cut = impressions.request_id.str.split("-", expand=True).astype(int)
        shown = impressions.groupby([cut[0], cut[1]]).size()
        assert (whole.loc[shown.index] == shown).all(), "a day of a user is whole or absent"


def test_items_and_users_are_those_of_the_impressions(made):
    name, out = made
    impressions = pd.read_parquet(out / "impressions.parquet")
    assert set(pd.read_parquet(out / "items.parquet").item_id) == set(impressions.item_id)
    assert (out / "users.parquet").exists() == (name == "kuairand")
    assert all(impressions[label].isin([0, 1]).all() and impressions[label].any() for label in LABELS[name])


def test_the_same_command_makes_the_same_tables(made, tmp_path):
    name, out = made
    small.small_tables(ROOT / "sample" / name, tmp_path)
    for path in out.glob("*.parquet"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_the_recipes_of_small_data_read_no_id(made):
    name, _ = made
    recipe = load_recipe(ROOT / "models" / "recipes" / f"{name}-small-plain.yaml")
    ids = {"user_id", "item_id", "author_id", "music_id"}
    assert not ids & {feature.name for feature in recipe.features.all_features}
    assert recipe.data.request_id == "request_id"


def test_a_folder_without_tables_is_told(tmp_path, capsys):
    assert main(["prepare", "small", "--source", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "impressions.parquet: no such table" in capsys.readouterr().err
