"""Tests batches: every impression once per epoch, the same order for the same seed, from any step on."""

import numpy as np
import pytest
import torch

from models.data.batches import ordered_batches, prefetched, shuffled_batches, steps_per_epoch
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
