"""Tests the loss of a brown-out's steps: nDCG@10 against the full ranking."""

import itertools
import math

import numpy as np
import pytest

from service.rollout.trials.brownout_loss import ndcg


def by_hand(scores: list[float], full: list[float]) -> float:
    """nDCG@10 in plain Python."""

    def order(values: list[float]) -> list[int]:
        return sorted(range(len(values)), key=lambda place: (-values[place], place))

    gain = {item: 10 - place for place, item in enumerate(order(full)[:10])}
    dcg = sum(gain.get(item, 0) / math.log2(place + 2) for place, item in enumerate(order(scores)[:10]))
    return dcg / sum(each / math.log2(place + 2) for place, each in enumerate(gain.values()))


def test_it_is_one_for_the_same_order_and_agrees_with_plain_python() -> None:
    rng = np.random.default_rng(3)
    for count in (1, 2, 9, 10, 11, 200):
        full = rng.integers(0, 40, count).astype(np.float64)
        assert ndcg(7 * full - 3, full) == pytest.approx(1)
        for _ in range(20):
            scores = rng.integers(0, 40, count).astype(np.float64)
            assert ndcg(scores, full) == pytest.approx(by_hand(scores.tolist(), full.tolist()))


def test_every_other_order_of_a_short_list_is_worse() -> None:
    full = np.array([4.0, 3.0, 2.0, 1.0])
    for order in itertools.permutations(full):
        assert (ndcg(np.array(order), full) == pytest.approx(1)) == (order == tuple(full))


def test_a_candidate_without_a_score_comes_last() -> None:
    full = np.arange(12.0)
    scores = full.copy()
    scores[11] = np.nan
    assert ndcg(scores, full) == pytest.approx(by_hand([*full[:11], -1], full.tolist()))
