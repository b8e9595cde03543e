"""Tests the metrics of an output by kind; a figure that cannot be measured is null with a reason."""

import json

import numpy as np
import pytest

from models.metrics import outputs
from models.metrics.bootstrap import Draws


def test_a_part_without_impressions_gives_no_figures_and_no_error():
    empty = np.zeros(0)
    assert outputs.of_probability(empty, empty, empty)["auc"] is None


def test_a_choice_is_held_against_the_shares_of_the_classes():
    classes = np.array([1, 1, 1, 4])
    knowing_the_shares = outputs.of_choice(np.log([0.75, 0.75, 0.75, 0.25]), classes)
    assert knowing_the_shares["log_loss"] == pytest.approx(knowing_the_shares["share_log_loss"])
    assert outputs.of_choice(np.log([0.9, 0.9, 0.9, 0.5]), classes)["log_loss"] < knowing_the_shares["share_log_loss"]
    assert not {"auc", "ece"} & set(knowing_the_shares), "every impression is a positive"
    assert outputs.of_choice(np.zeros(0), np.zeros(0))["impressions"] == 0


def test_value_errors_by_hand():
    result = outputs.of_value(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    assert (result["rmse"], result["mae"]) == (pytest.approx(2**0.5), 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_give_no_figures_but_a_reason(bad):
    labels = np.array([0.0, 1, 0, 1])
    scores = np.array([-0.1, -2.0, bad, -0.5])
    for result in (
        outputs.of_probability(labels, scores, np.arange(4)),
        outputs.of_choice(scores, np.arange(4)),
        outputs.of_value(labels, scores),
    ):
        assert result["why"] == "1 of 4 scores are not finite"
        assert json.loads(json.dumps(result, allow_nan=False)) == result
        assert not any(isinstance(figure, float) for figure in result.values())


def test_an_empty_set_has_null_metrics_and_says_why():
    empty = np.zeros(0)
    draws = Draws(empty)
    for result in (
        outputs.of_probability(empty, empty, empty, draws=draws),
        outputs.of_choice(empty, empty, draws),
        outputs.of_value(empty, empty, draws),
    ):
        assert result["why"] == "no impression of its space"
        assert {name for name, figure in result.items() if figure is None} >= {"log_loss"} or result["rmse"] is None
        json.dumps(result, allow_nan=False)
