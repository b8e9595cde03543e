"""Tests the sample: it is small enough, has whole users, and is the same for the same seed."""

import numpy as np
import pandas as pd
import pytest

from models.prepare.sample import sample_tables


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "source"
    folder.mkdir()
    user = rng.integers(0, 300, 20_000)
    item = rng.integers(0, 2000, 20_000)
    rows = pd.DataFrame({"user_id": user, "item_id": item, "time_ms": rng.integers(0, 2**40, 20_000)})
    rows.to_parquet(folder / "impressions.parquet")
    rows.assign(action="click", scene=1).to_parquet(folder / "behaviours.parquet")
    pd.DataFrame({"user_id": np.arange(300), "x": rng.random(300)}).to_parquet(folder / "users.parquet")
    pd.DataFrame({"item_id": np.arange(2500), "y": rng.random(2500)}).to_parquet(folder / "items.parquet")
    return folder


def read(folder):
    return {path.stem: pd.read_parquet(path) for path in folder.glob("*.parquet")}


def test_a_sample_fits_and_keeps_whatever_belongs_to_its_users(source, tmp_path):
    sample_tables(source, tmp_path / "sample", 100_000, seed=1)
    whole = read(source)
    written = read(tmp_path / "sample")
    assert sum(p.stat().st_size for p in (tmp_path / "sample").iterdir()) <= 100_000
    users = set(written["users"].user_id)
    assert 0 < len(users) < 300
    for name in ("impressions", "behaviours"):
        assert len(written[name]) == whole[name].user_id.isin(users).sum()
    assert set(written["items"].item_id) == set(written["impressions"].item_id) | set(written["behaviours"].item_id)


def test_the_seed_decides_who_is_in_it(source, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        sample_tables(source, tmp_path / name, 100_000, seed)
    users = {name: read(tmp_path / name)["users"].user_id.tolist() for name in "abc"}
    assert users["a"] == users["b"] != users["c"]


def test_what_fits_is_taken_whole(source, tmp_path):
    rows = sample_tables(source, tmp_path / "sample", 10_000_000, seed=1)
    assert rows == {"users": 300, "items": 2500, "behaviours": 20_000, "impressions": 20_000}


def test_one_users_data_is_cut_by_item(source, tmp_path):
    for name in ("users", "behaviours"):
        (source / f"{name}.parquet").unlink()
    whole = pd.read_parquet(source / "impressions.parquet").assign(user_id=0)
    whole.to_parquet(source / "impressions.parquet")
    sample_tables(source, tmp_path / "sample", 60_000, seed=1)
    written = read(tmp_path / "sample")
    assert 0 < len(written["impressions"]) < len(whole)
    assert set(written["impressions"].item_id) <= set(written["items"].item_id)


def test_a_folder_without_tables_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m models\.prepare kuairand"):
        sample_tables(tmp_path, tmp_path / "sample", 100, seed=1)
