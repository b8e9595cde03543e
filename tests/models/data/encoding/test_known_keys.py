"""Tests that integers are hashed once over many batches, with the keys of `keys_of_column`."""

import numpy as np
import pytest

from features import keys_of_column
from models.data.encoding.known_keys import KnownKeys


class Hashing:
    """Hashes as a column of ids does, and counts the values."""

    def __init__(self) -> None:
        self.values = 0

    def __call__(self, values: np.ndarray) -> np.ndarray:
        self.values += len(values)
        return keys_of_column("id", values)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int16])
def test_every_integer_is_hashed_once(dtype: type) -> None:
    rng = np.random.default_rng(1)
    batches = [rng.integers(-300 if dtype != np.uint64 else 0, 3000, 200).astype(dtype) for _ in range(40)]
    known = KnownKeys()
    hashing = Hashing()
    for batch in batches:
        np.testing.assert_array_equal(known.of(batch, hashing), keys_of_column("id", batch))
    assert hashing.values == len(np.unique(np.concatenate(batches)))
    assert len(known._runs) <= 12, "few runs to search"


def test_no_more_are_remembered_than_allowed() -> None:
    known = KnownKeys(most=500)
    hashing = Hashing()
    for begin in (0, 200, 400, 600):
        batch = np.arange(begin, begin + 200)
        np.testing.assert_array_equal(known.of(batch, hashing), keys_of_column("id", batch))
        assert sum(len(values) for values, _ in known._runs) <= 500
    assert hashing.values == 800


def test_texts_and_an_empty_batch_are_hashed_as_they_are() -> None:
    hashing = Hashing()
    texts = np.array(["a", "", "39", "a"], dtype=object)
    known = KnownKeys()
    np.testing.assert_array_equal(known.of(texts, hashing), keys_of_column("id", texts))
    assert known.of(np.zeros(0, dtype=np.int64), hashing).tolist() == []
    assert known.of(np.array([39]), hashing)[0] == keys_of_column("id", ["39"])[0]


def test_integers_of_another_type_keep_every_digit() -> None:
    known = KnownKeys()
    large = 2**60
    for batch in (
        np.array([large + 1, 5], dtype=np.int64),
        np.array([large + 3, 2**63 + 5], dtype=np.uint64),
        np.array([large, large + 1, large + 2, large + 3, -4], dtype=np.int64),
    ):
        np.testing.assert_array_equal(known.of(batch, Hashing()), keys_of_column("id", batch))
