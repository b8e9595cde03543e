"""Owns the promises of the metrics: each equals scikit-learn's or a case worked by hand, ties included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from models import metrics

RNG = np.random.default_rng(0)
LABELS = (RNG.random(3000) < 0.3).astype(np.float32)
SCORES = np.log(np.clip(RNG.random(3000) * 0.7 + LABELS * 0.2, 1e-9, 1 - 1e-9))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_auc_counts_ties_as_one_half_like_scikit_learn(rows):
    labels = np.array([float(y) for y, _ in rows])
    scores = np.array([float(s) for _, s in rows])
    ours = metrics.auc(labels, scores)
    if len(set(labels)) == 1:
        assert ours is None
    else:
        assert ours == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)


def test_gauc_weights_users_by_impressions_and_skips_users_of_one_class():
    users = np.array([7] * 4 + [8] * 2 + [9] * 3)
    labels = np.array([1, 0, 1, 0, 1, 1, 0, 1, 0], float)
    scores = np.array([0.9, 0.9, 0.2, 0.1, 0.5, 0.6, 0.1, 0.4, 0.4])
    of_7, of_9 = 0.625, 0.75  # 7: pairs 1/2 + 1 + 0 + 1 of 4; 9: 1 + 1/2 of 2
    found = metrics.gauc(labels, scores, users)
    assert found.value == pytest.approx((4 * of_7 + 3 * of_9) / 7)
    assert (found.users, found.skipped) == (2, 1)


def test_gauc_equals_a_loop_over_users_with_scikit_learn():
    users = RNG.integers(0, 200, 3000)
    scores = np.round(SCORES, 1)
    total = weight = skipped = 0
    for user in np.unique(users):
        mine = users == user
        if len(set(LABELS[mine])) == 1:
            skipped += 1
            continue
        total += mine.sum() * sk.roc_auc_score(LABELS[mine], scores[mine])
        weight += mine.sum()
    found = metrics.gauc(LABELS, scores, users)
    assert found.value == pytest.approx(total / weight, abs=1e-12)
    assert found.skipped == skipped


def test_gauc_without_any_user_of_two_classes_is_none():
    assert metrics.gauc(np.ones(3), np.arange(3.0), np.arange(3)).value is None


def test_log_loss_equals_scikit_learns():
    assert metrics.log_loss(LABELS, SCORES) == pytest.approx(sk.log_loss(LABELS, np.exp(SCORES)), rel=1e-9)


def test_log_loss_of_a_vanishing_probability_stays_exact():
    assert metrics.log_loss(np.array([1.0]), np.array([-80.0])) == pytest.approx(80.0)
    assert np.isfinite(metrics.log_loss(np.array([0.0]), np.array([0.0])))


def test_ece_is_zero_for_a_calibrated_score_and_the_gap_for_a_shifted_one():
    labels = np.tile([1.0, 0.0, 0.0, 0.0], 300)
    calibrated = metrics.calibration_curve(labels, np.full(1200, 0.25))
    assert metrics.expected_calibration_error(calibrated) == pytest.approx(0)
    shifted = metrics.calibration_curve(labels, np.full(1200, 0.4))
    assert metrics.expected_calibration_error(shifted) == pytest.approx(0.15)


def test_calibration_bins_hold_equal_mass_and_lose_no_impression():
    curve = metrics.calibration_curve(LABELS, np.exp(SCORES))
    assert [n for _, _, n in curve] == [200] * 15
    predicted = [p for p, _, _ in curve]
    assert predicted == sorted(predicted)
    by_hand = sum(200 * abs(p - o) for p, o, _ in curve) / 3000
    assert metrics.expected_calibration_error(curve) == pytest.approx(by_hand)
    rare = metrics.calibration_curve(LABELS, np.where(np.arange(3000) < 2900, 0.001, 0.5))
    assert sum(n for _, _, n in rare) == 3000


def test_the_top_of_the_list_by_hand():
    labels = np.zeros(1000)
    labels[[0, 3, 7, 500]] = 1
    top = metrics.top_share(labels, -np.arange(1000.0), 0.006)  # the first six: two of four positives
    assert (top.recall, top.precision) == (0.5, pytest.approx(2 / 6))
    assert top.f1 == pytest.approx(2 * 0.5 * (2 / 6) / (0.5 + 2 / 6))


def test_ties_at_the_border_of_the_top_enter_in_proportion():
    labels = np.array([1.0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    top = metrics.top_share(
        labels, np.array([9.0, 5, 5, 5, 5, 1, 1, 1, 1, 1]), 0.3
    )  # the 9, and two of the four 5s of which one is positive
    assert top.precision == pytest.approx((1 + 0.25 * 2) / 3)


def test_a_part_without_impressions_gives_no_figures_and_no_error():
    empty = np.zeros(0)
    assert metrics.of_probability(empty, empty, empty)["auc"] is None


def test_a_choice_is_held_against_the_shares_of_the_classes():
    classes = np.array([1, 1, 1, 4])
    knowing_the_shares = metrics.of_choice(np.log([0.75, 0.75, 0.75, 0.25]), classes)
    assert knowing_the_shares["log_loss"] == pytest.approx(knowing_the_shares["share_log_loss"])
    assert metrics.of_choice(np.log([0.9, 0.9, 0.9, 0.5]), classes)["log_loss"] < knowing_the_shares["share_log_loss"]
    assert not {"auc", "ece"} & set(knowing_the_shares), "every impression is a positive"
    assert metrics.of_choice(np.zeros(0), np.zeros(0))["impressions"] == 0


def test_value_errors_by_hand():
    found = metrics.of_value(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    assert (found["rmse"], found["mae"]) == (pytest.approx(2**0.5), 1.0)
