"""Tests MMR, DPP and SSD against naive loops: cosines pair by pair, determinants, volumes by Gram matrices."""

import tracemalloc

import numpy as np
import pytest
from naive_diversity import naive_dpp, naive_mmr, naive_ssd

from service.rules.order.diversity import diversified, dpp, mmr, ssd


def scores_and_vectors(seed: int, n: int = 9, width: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random(n), rng.normal(size=(n, width))


def places(scores: np.ndarray, vectors: np.ndarray, method: str, weight: float, depth: int, window: int) -> list[int]:
    """The final result of `diversified`."""
    steps = diversified(scores, vectors, method, weight, depth, window)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            order: list[int] = end.value
            return order


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(10))
def test_each_method_chooses_as_its_naive_loop(seed: int, weight: float) -> None:
    scores, vectors = scores_and_vectors(seed)
    assert list(mmr(scores, vectors, weight, 7)) == naive_mmr(scores, vectors, weight, 7)
    assert list(dpp(scores, vectors, weight, 7)) == naive_dpp(scores, vectors, weight, 7)
    assert list(ssd(scores, vectors, weight, 7, 4)) == naive_ssd(scores, vectors, weight, 7, 4)


@pytest.mark.parametrize("method", ["mmr", "dpp", "ssd"])
def test_weight_zero_is_the_order_of_the_scores_and_no_candidate_is_lost_or_doubled(method: str) -> None:
    scores, vectors = scores_and_vectors(3, n=30, width=4)
    by_score = np.argsort(-scores, kind="stable").tolist()
    assert places(scores, vectors, method, 0.0, 10, 5) == by_score
    assert sorted(places(scores, vectors, method, 0.7, 10, 5)) == list(range(30))


@pytest.mark.parametrize("method", ["mmr", "dpp", "ssd"])
def test_of_two_equal_items_the_second_comes_after_a_different_one(method: str) -> None:
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    scores = np.array([1.0, 0.95, 0.9])
    assert places(scores, vectors, method, 0.9, 3, 3) == [0, 2, 1]


def test_memory_does_not_grow_with_the_square_of_the_candidates() -> None:
    peaks = []
    for n in (4000, 8000):
        scores, vectors = scores_and_vectors(1, n=n, width=8)
        tracemalloc.start()
        list(mmr(scores, vectors, 0.5, 5))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] / peaks[0] < 2.5


@pytest.mark.parametrize("method", ["mmr", "dpp", "ssd"])
def test_a_long_list_lets_others_run_again_and_again(method: str) -> None:
    scores, vectors = scores_and_vectors(5, n=1000, width=64)
    pauses = [sum(1 for _ in diversified(scores, vectors, method, 0.5, depth, 10)) for depth in (25, 50)]
    assert pauses[0] >= 1
    assert pauses[1] >= 1.9 * pauses[0]


def test_equal_vectors_end_dpp_and_the_scores_decide_on_the_rest() -> None:
    scores = np.array([0.1, 0.9, 0.5, 0.7])
    assert places(scores, np.ones((4, 3)), "dpp", 0.5, 4, 2) == [1, 3, 2, 0]


@pytest.mark.parametrize("weight", [1e-300, 1e-9, 0.001, 0.0014, 0.01])
def test_a_small_weight_of_dpp_is_nearly_the_order_of_the_scores(weight: float) -> None:
    rng = np.random.default_rng(2)
    scores = rng.permutation(np.linspace(0.0, 1.0, 12))
    vectors = np.eye(12) + 0.1 * rng.normal(size=(12, 12))
    assert places(scores, vectors, "dpp", weight, 12, 2) == np.argsort(-scores).tolist()


@pytest.mark.parametrize("weight", [0.001, 0.02, 0.026, 0.05])
def test_dpp_chooses_no_equal_item_first_however_small_the_weight(weight: float) -> None:
    """Two equal items have determinant 0, which a large factor must not hide."""
    vectors = np.array([[0.6, 0.7, 0.1], [0.6, 0.7, 0.1], [0.1, 0.3, 0.9], [0.9, 0.1, 0.2]])
    scores = np.array([1.0, 0.99, 0.5, 0.0])
    assert list(dpp(scores, vectors, weight, 4)) == [0, 2, 3]


@pytest.mark.parametrize("method", ["mmr", "dpp", "ssd"])
def test_weight_one_begins_with_the_highest_score(method: str) -> None:
    scores, vectors = scores_and_vectors(4, n=20)
    assert places(scores, vectors, method, 1.0, 5, 3)[0] == int(np.argmax(scores)) != 0


@pytest.mark.parametrize("weight", [0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("method", ["mmr", "dpp", "ssd"])
def test_a_vector_of_zeros_counts_as_one_that_is_orthogonal_to_every_other(method: str, weight: float) -> None:
    scores, vectors = scores_and_vectors(6, n=9, width=12)
    missing = [2, 5]
    vectors[missing] = 0.0
    # The same list with the missing vectors along axes of their own.
    beside = np.zeros((9, len(missing)))
    beside[missing, range(len(missing))] = 1.0
    complete = np.hstack([vectors, beside])
    chosen = places(scores, vectors, method, weight, 9, 4)
    assert chosen == places(scores, complete, method, weight, 9, 4)
    naive = {"mmr": naive_mmr, "dpp": naive_dpp}
    if method == "ssd":
        assert chosen == naive_ssd(scores, complete, weight, 9, 4)
    elif weight < 1:
        assert chosen == naive[method](scores, complete, weight, 9)


def test_candidates_without_vectors_are_chosen_by_their_scores() -> None:
    scores = np.array([0.2, 0.9, 0.4, 0.7])
    assert places(scores, np.zeros((4, 3)), "dpp", 0.5, 4, 2) == [1, 3, 2, 0]
    assert list(dpp(scores, np.zeros((4, 3)), 0.5, 4)) == [1, 3, 2, 0]
