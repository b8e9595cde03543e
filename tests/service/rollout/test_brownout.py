"""Tests the steps of a brown-out: fewer behaviours, the choice for the second pass, the merged scores."""

import numpy as np
import pytest

from service.rollout.brownout import best_places, merged, second_pass_size, with_fewer_behaviours


def inputs_of(behaviours: int) -> dict[str, np.ndarray]:
    return {
        "item_keys": np.arange(6).reshape(3, 2),
        "behaviour_keys": np.arange(2 * behaviours).reshape(behaviours, 2),
        "behaviour_numerics": np.arange(behaviours, dtype=np.float32).reshape(behaviours, 1),
        "behaviour_times": np.arange(behaviours)[::-1].copy(),
        "request_time": np.array([99]),
    }


def test_the_newest_fifth_of_the_behaviours_stays_and_nothing_else_changes() -> None:
    inputs = inputs_of(50)
    cut = with_fewer_behaviours(inputs, 50)
    for name in inputs:
        expected = inputs[name][:10] if name.startswith("behaviour") else inputs[name]
        assert np.array_equal(cut[name], expected)
    assert len(inputs["behaviour_times"]) == 50


@pytest.mark.parametrize(("behaviours", "longest"), [(0, 50), (10, 50), (1, 3)])
def test_a_short_sequence_stays_as_it_is(behaviours: int, longest: int) -> None:
    inputs = inputs_of(behaviours)
    assert with_fewer_behaviours(inputs, longest) is inputs


def test_without_a_sequence_nothing_is_cut() -> None:
    inputs = {"item_keys": np.zeros((3, 2))}
    assert with_fewer_behaviours(inputs, 0) is inputs


@pytest.mark.parametrize(("candidates", "size"), [(1, 1), (20, 20), (21, 20), (200, 20), (201, 20), (1000, 100)])
def test_the_second_pass_scores_a_tenth_and_at_least_20(candidates: int, size: int) -> None:
    assert second_pass_size(candidates) == size


def test_the_best_of_the_first_pass_are_chosen_in_the_order_of_the_request_and_nan_last() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        first = rng.integers(0, 5, 300).astype(np.float64)
        first[rng.random(300) < 0.1] = np.nan
        places = best_places(first)
        assert len(places) == 30 and np.array_equal(places, np.unique(places))
        by_hand = sorted(range(300), key=lambda place: (-first[place] if np.isfinite(first[place]) else np.inf, place))
        assert set(places.tolist()) == set(by_hand[:30])


SCALES = [(0.0, 1.0), (-1.0, 0.0), (-3.0, 5.0), (1e-9, 1e-6), (0.0, 1e12)]


@pytest.mark.parametrize("of_first", SCALES)
@pytest.mark.parametrize("of_model", SCALES)
def test_the_full_models_scores_stay_and_the_others_keep_their_order_below_them(
    of_first: tuple[float, float], of_model: tuple[float, float]
) -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        first = rng.uniform(*of_first, 200)
        first[rng.choice(200, 40)] = first[0]
        places = best_places(first)
        second = rng.uniform(*of_model, len(places))
        scores = merged(first, second, places)
        assert scores[places].tobytes() == second.tobytes()
        rest = np.setdiff1d(np.arange(200), places)
        assert scores[rest].max() < second.min()
        in_first = rest[np.argsort(-first[rest], kind="stable")]
        assert (np.diff(scores[in_first]) <= 0).all()
        # A rule that multiplies scores acts on these in the same direction.
        if min(first.min(), second.min()) > 0:
            assert (scores > 0).all()


def test_candidates_without_a_score_have_none_after_the_merge() -> None:
    first = np.linspace(1, 0, 30)
    first[25] = np.nan
    places = best_places(first)
    second = np.linspace(0, 1, 20)
    second[3] = np.nan
    scores = merged(first, second, places)
    assert np.flatnonzero(~np.isfinite(scores)).tolist() == [3, 25]
    assert np.nanmax(scores[20:]) < np.nanmin(scores[:20])
    assert np.array_equal(merged(first, np.full(20, np.nan), places)[26:], first[26:])
