"""Tests batches: every impression once per epoch, the same order for the same seed, from any step on."""

import numpy as np
import pytest
import torch

from models.data.batches import ordered_batches, prefetched, shuffled_batches, steps_of_lists, steps_per_epoch
from models.data.cache import open_data


@pytest.fixture
def data(tiny_recipe, tmp_path):
    return open_data(tiny_recipe(), tmp_path / "cache")


def times(batches):
    return [b["request_time"].tolist() for b in batches]


def test_an_epoch_shows_every_impression_once(data):
    seen = sorted(t for batch in times(shuffled_batches(data, "train", 64, 1, 0)) for t in batch)
    assert seen == sorted(np.asarray(data.parts["train"].time).tolist())


def test_seed_and_epoch_alone_decide_the_order(data):
    assert times(shuffled_batches(data, "train", 64, 1, 0)) == times(shuffled_batches(data, "train", 64, 1, 0))
    assert times(shuffled_batches(data, "train", 64, 1, 0)) != times(shuffled_batches(data, "train", 64, 1, 1))
    assert times(shuffled_batches(data, "train", 64, 1, 0)) != times(shuffled_batches(data, "train", 64, 2, 0))


def test_reading_ahead_gives_the_same_batches(data):
    assert times(shuffled_batches(data, "train", 64, 1, 0, ahead=3)) == times(shuffled_batches(data, "train", 64, 1, 0))


def test_reading_goes_on_from_any_step(data):
    assert (
        times(shuffled_batches(data, "train", 64, 1, 0, first_step=4))
        == times(shuffled_batches(data, "train", 64, 1, 0))[4:]
    )


def test_batches_have_the_agreed_shapes_and_types(data):
    batch = next(iter(ordered_batches(data, "train", 64)))
    length = batch["behaviour_times"].shape[1]
    shapes = {name: (tuple(v.shape), v.dtype) for name, v in batch.items()}
    assert shapes == {
        "user_rows": ((64, 2), torch.int64),
        "user_numerics": ((64, 1), torch.float32),
        "context_rows": ((64, 1), torch.int64),
        "context_numerics": ((64, 1), torch.float32),
        "item_rows": ((64, 3), torch.int64),
        "item_numerics": ((64, 1), torch.float32),
        "request_time": ((64,), torch.int64),
        "behaviour_rows": ((64, length, 5), torch.int64),
        "behaviour_numerics": ((64, length, 1), torch.float32),
        "behaviour_times": ((64, length), torch.int64),
        "label/click": ((64,), torch.float32),
        "label/like": ((64,), torch.float32),
        "label/long_view": ((64,), torch.float32),
    }
    padding = batch["behaviour_times"] == 0
    assert (batch["behaviour_rows"][padding] == 0).all()
    assert (batch["behaviour_rows"][~padding] != 0).any(-1).all()
    assert (batch["behaviour_times"].diff(dim=1) <= 0).all(), "newest first"


def test_the_last_batch_is_smaller_and_none_is_lost(data):
    n = len(data.parts["validation"])
    sizes = [len(b["request_time"]) for b in ordered_batches(data, "validation", 50)]
    assert len(sizes) == steps_per_epoch(n, 50)
    assert sum(sizes) == n


def test_an_error_while_reading_reaches_the_training_loop():
    def broken():
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(prefetched(iter([broken]), 2))


def test_leaving_the_loop_early_ends_the_reader(data):
    import threading

    for _ in shuffled_batches(data, "train", 8, 1, 0, ahead=3):
        break
    assert not [t for t in threading.enumerate() if t.name == "batches"]


LISTS = {"training.list_losses": {"pctr": {"type": "pairwise"}}}


def test_with_list_losses_a_batch_holds_whole_lists_and_says_which(tiny_recipe, tmp_path):
    data = open_data(tiny_recipe(None, LISTS), tmp_path / "cache")
    batches = list(shuffled_batches(data, "train", 64, 1, 0))
    user = np.asarray(data.parts["train"].user)
    assert len(batches) == steps_per_epoch(len(user), 64)
    assert sorted(t for b in times(batches) for t in b) == sorted(np.asarray(data.parts["train"].time).tolist())
    homes = [set(b["group"].tolist()) for b in batches]
    assert sum(map(len, homes)) == len(np.unique(user)), "no user lies in two batches"
    size_of = dict(zip(*np.unique(user, return_counts=True), strict=True))
    for batch in batches:
        for name, size in zip(*np.unique(batch["group"].numpy(), return_counts=True), strict=True):
            assert size == size_of[name]
    again = shuffled_batches(data, "train", 64, 1, 0, first_step=3, ahead=2)
    assert times(again) == times(batches)[3:]
    assert times(shuffled_batches(data, "train", 64, 1, 1)) != times(batches)


def test_without_list_losses_batches_name_no_list(data):
    assert "group" not in next(iter(shuffled_batches(data, "train", 64, 1, 0)))


@pytest.mark.parametrize("seed", range(100))
def test_steps_of_lists_are_never_empty_and_shorter_than_two_batches(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 400))
    batch_size = int(rng.integers(2, 80))
    lists = rng.integers(0, int(rng.integers(1, 60)), n)
    steps = steps_of_lists(lists, batch_size, rng)
    assert len(steps) == steps_per_epoch(n, batch_size)
    assert all(0 < len(step) < 2 * batch_size for step in steps)
    assert sorted(np.concatenate(steps)) == list(range(n))
    # A list that is shorter than every step stays whole.
    home = np.empty(n, dtype=int)
    for number, step in enumerate(steps):
        home[step] = number
    for name in np.unique(lists):
        members = home[lists == name]
        assert len(members) > n // len(steps) or len(np.unique(members)) == 1


def test_no_impression_gives_no_step():
    assert steps_of_lists(np.zeros(0, np.int64), 8, np.random.default_rng(0)) == []
