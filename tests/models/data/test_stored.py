"""Tests rows on disk between two steps: buckets keep rows and order, threads give results in order, limits hold."""

from pathlib import Path

import numpy as np
import pytest

from models.data.stored.buckets import MOST_BUCKETS, Buckets, bucket_count, bucket_threads
from models.data.stored.memory import refuse_beyond
from models.data.stored.ordered import in_order
from models.recipe import RecipeError


@pytest.mark.parametrize("count", [1, 7])
def test_buckets_keep_every_row_in_order_and_leave_no_file(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 1000, (20, 50))
    with Buckets(tmp_path / "rows", np.int64, count) as buckets:
        for batch in rows:
            buckets.append(batch, batch % count)
        for bucket, values in enumerate(buckets):
            assert values.tolist() == [row for row in rows.ravel().tolist() if row % count == bucket]
        pieces = [np.concatenate(list(piece)) for piece in buckets.pieces(3)]
        assert sum(map(len, pieces)) == rows.size
        for bucket, values in enumerate(pieces):
            assert values.tolist() == buckets.read(bucket).tolist()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_buckets_and_threads_stay_within_memory(threads: int) -> None:
    for rows in (0, 1000, 10**7, 2 * 10**8):
        count, used = bucket_threads(rows, 160, 2 << 30, threads)
        assert 1 <= used <= max(threads, 1)
        assert used <= count <= MOST_BUCKETS
        assert used * rows * 160 // count <= 2 << 30
    assert bucket_count(10**7, 100, 10**12) == 1


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_give_results_in_order_and_compute_few_ahead(threads: int) -> None:
    computed: list[int] = []
    results = in_order(lambda i: computed.append(i) or i * i, range(100), threads)
    for i, result in enumerate(results):
        assert result == i * i
        assert len(computed) <= i + 1 + threads
    assert sorted(computed) == list(range(100))


def test_an_error_in_a_thread_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda i: 1 // (3 - i), range(10), 4))


def test_a_limit_names_itself_what_is_needed_and_what_to_set() -> None:
    refuse_beyond(100, 100, "nothing")
    with pytest.raises(RecipeError) as raised:
        refuse_beyond(1 << 30, 5 << 30, "the index of 9 ids", ", or fewer ids")
    assert str(raised.value).endswith(
        "the index of 9 ids would take 5.0 GiB of memory, and the limit allows 1.0 GiB for it; "
        "set data.memory_gib higher, or fewer ids"
    )
