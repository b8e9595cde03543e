"""Tests log loss and calibration error against scikit-learn and cases worked by hand."""

import numpy as np
import pytest
from sklearn import metrics as sk

from models.metrics import calibration

RNG = np.random.default_rng(0)
LABELS = (RNG.random(3000) < 0.3).astype(np.float32)
SCORES = np.log(np.clip(RNG.random(3000) * 0.7 + LABELS * 0.2, 1e-9, 1 - 1e-9))


def test_log_loss_equals_scikit_learns():
    assert calibration.log_loss(LABELS, SCORES) == pytest.approx(sk.log_loss(LABELS, np.exp(SCORES)), rel=1e-9)


def test_log_loss_of_a_vanishing_probability_stays_exact():
    assert calibration.log_loss(np.array([1.0]), np.array([-80.0])) == pytest.approx(80.0)
    assert np.isfinite(calibration.log_loss(np.array([0.0]), np.array([0.0])))


def test_ece_is_zero_for_a_calibrated_score_and_the_gap_for_a_shifted_one():
    labels = np.tile([1.0, 0.0, 0.0, 0.0], 300)
    calibrated = calibration.calibration_curve(labels, np.full(1200, 0.25))
    assert calibration.expected_calibration_error(calibrated) == pytest.approx(0)
    shifted = calibration.calibration_curve(labels, np.full(1200, 0.4))
    assert calibration.expected_calibration_error(shifted) == pytest.approx(0.15)


def test_calibration_bins_hold_equal_mass_and_lose_no_impression():
    curve = calibration.calibration_curve(LABELS, np.exp(SCORES))
    assert [n for _, _, n in curve] == [200] * 15
    predicted = [p for p, _, _ in curve]
    assert predicted == sorted(predicted)
    by_hand = sum(200 * abs(p - o) for p, o, _ in curve) / 3000
    assert calibration.expected_calibration_error(curve) == pytest.approx(by_hand)
    rare = calibration.calibration_curve(LABELS, np.where(np.arange(3000) < 2900, 0.001, 0.5))
    assert sum(n for _, _, n in rare) == 3000
