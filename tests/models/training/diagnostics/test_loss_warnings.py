"""Tests the warning about a value whose loss keeps the other outputs from learning."""

import pytest

from models.training.diagnostics.warnings import loss_warnings

CLICK = {"log_loss": 0.69, "auc": 0.53}
SECONDS = {"rmse": 41.0, "mae": 30.0}


def test_a_value_in_seconds_beside_a_probability_is_told_with_what_helps():
    (warning,) = loss_warnings({"pclick": CLICK, "watch": SECONDS}, {})
    assert warning == (
        "watch: its squared error on train, 1,681, outweighs every other loss (pclick 0.69), and the other outputs may "
        "learn nothing; use log1p(...) of its label, or training.loss_weights: {watch: 0.0004}"
    )


@pytest.mark.parametrize(
    ("outputs", "weights"),
    [
        ({"pclick": CLICK, "watch": SECONDS}, {"watch": 0.0004}),
        ({"pclick": CLICK, "watch": {"rmse": 1.3, "mae": 1.0}}, {}),
        ({"watch": SECONDS}, {}),
        ({"watch": SECONDS, "price": {"rmse": 20.0, "mae": 10.0}}, {}),
        ({"pclick": CLICK, "watch": {"rmse": None, "mae": None, "why": "no impression of its space"}}, {}),
        ({"pclick": {"log_loss": None, "why": "1 of 2 scores are not finite"}, "watch": SECONDS}, {}),
        ({"pclick": CLICK, "plike": {"log_loss": 300.0}}, {}),
    ],
)
def test_losses_of_like_size_and_values_alone_are_nothing_to_warn_of(outputs, weights):
    assert list(loss_warnings(outputs, weights)) == []
