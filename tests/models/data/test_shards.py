"""Tests shards: together they have every impression of a batch once, and lists stay whole."""

import numpy as np
import pytest

from models.data.batches import shuffled_batches
from models.data.cache import open_data
from models.data.shards import Shard


@pytest.mark.parametrize(("rows", "count"), [(10, 1), (10, 3), (3, 3), (7, 2), (1_000_003, 16)])
def test_shards_cover_the_rows_and_differ_by_one_row_at_most(rows: int, count: int) -> None:
    shards = [Shard.of(rows, number, count) for number in range(count)]
    assert shards[0].begin == 0
    assert shards[-1].end == rows
    assert all(one.end == next_.begin for one, next_ in zip(shards, shards[1:], strict=False))
    sizes = [shard.end - shard.begin for shard in shards]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_a_list_belongs_to_the_shard_of_its_first_impression(seed: int) -> None:
    rng = np.random.default_rng(seed)
    picked = np.sort(rng.permutation(300)[:60])
    lists = rng.integers(0, 12, 60)
    shards = [Shard(0, 40), Shard(40, 41), Shard(41, 300)]
    parts = [shard.own(picked, lists) for shard in shards]
    assert sorted(np.concatenate(parts).tolist()) == picked.tolist()
    for shard, part in zip(shards, parts, strict=True):
        for name in np.unique(lists[np.isin(picked, part)]):
            whole = picked[lists == name]
            assert set(whole) <= set(part)
            assert shard.begin <= whole[0] < shard.end


@pytest.mark.parametrize("losses", [{}, {"pctr": {"type": "pairwise"}}])
@pytest.mark.parametrize("ahead", [0, 2])
def test_the_parts_of_a_batch_are_the_batch_of_one_process(tiny_recipe, tmp_path, losses, ahead) -> None:
    data = open_data(tiny_recipe(None, {"training.list_losses": losses}), tmp_path / "cache")
    rows = len(data.parts["train"])
    # The second shard has one row: most of its batches are empty.
    shards = [Shard(0, rows // 2), Shard(rows // 2, rows // 2 + 1), Shard(rows // 2 + 1, rows)]
    whole = [batch["request_time"].tolist() for batch in shuffled_batches(data, "train", 32, 1, 0)]
    parts = [
        [batch["request_time"].tolist() for batch in shuffled_batches(data, "train", 32, 1, 0, 0, ahead, shard)]
        for shard in shards
    ]
    assert [sorted(a + b + c) for a, b, c in zip(*parts, strict=True)] == [sorted(times) for times in whole]
    assert sum(not times for times in parts[1]) > len(whole) / 2
