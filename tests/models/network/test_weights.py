"""Tests the weights of impressions in every loss: an impression of weight w counts as w impressions."""

import numpy as np
import pytest
import torch
from small_rankers import small, training_batch

from models.catalogue import CATALOGUE
from models.network.losses import counted

COLUMN = "w"
BY_AGE = {"age": "elapsed", "delay": "after"}
DELAYS = {"delayed_feedback": BY_AGE, "elapsed_weights": BY_AGE, "fake_negatives": {"late": "late"}}
TAKING = [name for name in CATALOGUE if name != "dcmt"]


def weighted(model, batch, weight):
    """The losses of a batch whose impressions have these weights `[B]`, with the means of the batch itself."""
    batch = batch | {f"weight/{COLUMN}": weight}
    weights = model.ranker.objective.weights
    weights.column = COLUMN
    for output in model.ranker.objective.outputs:
        weights.means[output.name] = float(weight[counted(batch, output) > 0].mean())
    with torch.no_grad():
        losses = model.ranker.losses(batch)
    weights.column = None
    return losses


def repeated(batch, times):
    """Every impression as many times as its weight says; the copies keep its list."""
    return {name: values.repeat_interleave(times.long(), 0) for name, values in batch.items()}


def assert_as_many(model, batch):
    """Weights from 0 to 3 give the losses of the batch in which every impression stands that many times."""
    weight = torch.from_numpy(np.random.default_rng(1).integers(0, 4, 60).astype(np.float32))
    losses = weighted(model, batch, weight)
    with torch.no_grad():
        expected = model.ranker.losses(repeated(batch, weight))
        plain = model.ranker.losses(batch)
    for name, loss in losses.items():
        assert float(loss) == pytest.approx(float(expected[name]), rel=2e-5), name
        assert float(loss) != pytest.approx(float(plain[name]), rel=1e-4), "the weights are seen"


@pytest.mark.parametrize("architecture", TAKING)
def test_a_weighted_impression_is_as_many_impressions(architecture: str) -> None:
    model = small(architecture)
    assert_as_many(model, training_batch(model, 60, 4))


@pytest.mark.parametrize("delay", DELAYS, ids=str)
def test_so_it_is_in_the_losses_of_conversions_to_come(delay: str) -> None:
    chain = {"type": "esmm", "click": "click", "conversion": "like", "delay": {"type": delay} | DELAYS[delay]}
    model = small("esmm", tasks=[chain])
    batch = training_batch(model, 60, 4)
    rng = np.random.default_rng(5)
    batch["label/elapsed"] = torch.from_numpy(rng.uniform(2e5, 3e5, 60).astype(np.float32))
    batch["label/after"] = torch.from_numpy(rng.uniform(1e4, 1e5, 60).astype(np.float32))
    batch["label/late"] = batch["label/like"] * (torch.arange(60) % 2)
    assert_as_many(model, batch)


@pytest.mark.parametrize("architecture", TAKING)
def test_equal_weights_change_no_bit_of_a_loss(architecture: str) -> None:
    model = small(architecture)
    batch = training_batch(model, 40, 3)
    with torch.no_grad():
        plain = model.ranker.losses(batch)
    for name, loss in weighted(model, batch, torch.full((40,), 0.5)).items():
        assert float(loss) == float(plain[name]), name


def test_the_log_loss_and_the_squared_error_are_weighted_means_in_float64() -> None:
    model = small("youtube2019")
    batch = training_batch(model, 64, 4)
    weight = torch.from_numpy(np.random.default_rng(2).gamma(0.5, size=64).astype(np.float32))
    losses = weighted(model, batch, weight)
    with torch.no_grad():
        scores = {name: score.double().numpy() for name, score in model.ranker(batch).items()}
    w = weight.double().numpy()
    click = batch["label/click"].double().numpy()
    of_click = -(click * scores["pctr"] + (1 - click) * np.log1p(-np.exp(scores["pctr"])))
    assert float(losses["pctr"]) == pytest.approx((w * of_click).sum() / w.sum(), rel=1e-5)
    error = (scores["watch_time"] - batch["label/log1p(watch_ms)"].double().numpy()) ** 2
    assert float(losses["watch_time"]) == pytest.approx((w * error).sum() / w.sum(), rel=1e-5)
    # A value within a space: the mean weight is that of the space.
    liked = batch["label/like"].numpy() > 0
    error = (scores["rating"] - batch["label/rating"].double().numpy()) ** 2
    expected = (w * error)[liked].sum() / w[liked].sum()
    assert float(losses["rating"]) == pytest.approx(expected, rel=1e-5)


def test_a_task_reads_its_own_column_in_place_of_the_common_one() -> None:
    model = small("mmoe")
    batch = training_batch(model, 30, 3)
    heavy = torch.zeros(30)
    heavy[4] = 30.0
    with torch.no_grad():
        plain = model.ranker.losses(batch)
        model.ranker.objective.weights.columns = {"plike": "own"}
        losses = model.ranker.losses(batch | {"weight/own": heavy})
        model.ranker.objective.weights.columns = {}
        alone = model.ranker.losses({name: values[4:5] for name, values in batch.items()})
    assert float(losses["pctr"]) == float(plain["pctr"])
    assert float(losses["plike"]) == pytest.approx(float(alone["plike"]), rel=1e-5)


def test_a_batch_without_weight_has_no_loss_and_a_finite_gradient() -> None:
    model = small("mmoe")
    batch = training_batch(model, 16, 3) | {f"weight/{COLUMN}": torch.zeros(16)}
    model.ranker.objective.weights.column = COLUMN
    losses = model.ranker.losses(batch)
    sum(losses.values()).backward()
    assert [float(loss.detach()) for loss in losses.values()] == [0.0, 0.0]
    gradients = [p.grad for p in model.ranker.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(g).all()) for g in gradients)


def test_the_graph_knows_nothing_of_weights() -> None:
    model = small("mmoe")
    before = list(model.ranker.state_dict())
    model.ranker.objective.weights.column = COLUMN
    assert list(model.ranker.state_dict()) == before
    with torch.no_grad():
        model.ranker(training_batch(model, 4, 2))  # has no weights
