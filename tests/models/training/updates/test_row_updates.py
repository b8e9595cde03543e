"""Tests lazy updates against float64 references, against dense updates, and against a run that was broken off."""

import json

import numpy as np
import pytest
import torch
from resumed_runs import check_resumed_run

from models import train as training
from models.data.batches import shuffled_batches
from models.data.cache import open_data
from models.network.build import build_model
from models.training.checkpoint import WEIGHTS_FILE, load_whole
from models.training.updates.averaging import Average
from models.training.updates.optimisation import Optimiser
from models.training.updates.row_updates import LazyAdam, LazyRows, RowwiseAdagrad, average_decay
from models.training.weighting import build_weighting

TABLE = "inputs.table.weight"
LAZY = {"training.embedding_updates": "lazy_adam"}


def batches_of_rows(rng, steps, rows):
    """Yield the rows of each step and their gradients float32 `[U, 3]`."""
    for _ in range(steps):
        touched = np.flatnonzero(rng.random(rows) < 0.4)
        yield torch.from_numpy(touched), torch.from_numpy(rng.normal(size=(len(touched), 3)).astype(np.float32))


def test_a_row_gets_adam_as_if_only_its_own_batches_existed():
    rng = np.random.default_rng(1)
    table = torch.from_numpy(rng.normal(size=(6, 3)).astype(np.float32))
    w = table.double().numpy().copy()
    mean = np.zeros_like(w)
    square = np.zeros_like(w)
    steps = np.zeros(6, dtype=int)
    rule = LazyAdam(table)
    for rows, gradient in batches_of_rows(rng, 40, 6):
        rule.step(rows, gradient, 0.05)
        for row, g in zip(rows.tolist(), gradient.double().numpy(), strict=True):
            steps[row] += 1
            mean[row] = 0.9 * mean[row] + 0.1 * g
            square[row] = 0.999 * square[row] + 0.001 * g**2
            corrected = mean[row] / (1 - 0.9 ** steps[row])
            w[row] -= 0.05 * corrected / (np.sqrt(square[row] / (1 - 0.999 ** steps[row])) + 1e-8)
    np.testing.assert_allclose(table.numpy(), w, rtol=2e-5, atol=2e-5)


def test_rowwise_adagrad_divides_by_the_root_of_the_sum_of_mean_squares():
    rng = np.random.default_rng(2)
    table = torch.from_numpy(rng.normal(size=(6, 3)).astype(np.float32))
    w = table.double().numpy().copy()
    total = np.zeros(6)
    rule = RowwiseAdagrad(table)
    for rows, gradient in batches_of_rows(rng, 40, 6):
        rule.step(rows, gradient, 0.05)
        for row, g in zip(rows.tolist(), gradient.double().numpy(), strict=True):
            total[row] += (g**2).mean()
            w[row] -= 0.05 * g / (np.sqrt(total[row]) + 1e-10)
    np.testing.assert_allclose(table.numpy(), w, rtol=2e-5, atol=2e-5)
    assert rule.state["sum"].shape == (6,), "one number per row"


@pytest.mark.parametrize("decay", [0.05, 0.5, 0.95])
def test_the_lazy_average_is_that_of_every_step(decay):
    rng = np.random.default_rng(3)
    table = torch.from_numpy(rng.normal(size=(6, 3)).astype(np.float32))
    average = table.clone()
    expected = table.double().numpy().copy()
    lazy = LazyRows(average, table, decay)
    for step, (drawn, gradient) in enumerate(batches_of_rows(rng, 300, 6)):
        rows = drawn[drawn < 5]  # nothing changes the last row
        before = lazy.caught_up(rows, step)
        table[rows] += gradient[: len(rows)]
        lazy.update(rows, before, step + 1)
        d = average_decay(decay, step)
        expected = d * expected + (1 - d) * table.double().numpy()
    lazy.catch_up_all(300)
    np.testing.assert_allclose(average.numpy(), expected, rtol=1e-4, atol=1e-4)


def trained(recipe, tmp_path, steps, every_row=False):
    """Train some steps, and return the weights, their average and the optimiser."""
    data = open_data(recipe, tmp_path / "cache")
    torch.manual_seed(1)
    model = build_model(recipe, data.encoding, data.cross_values)
    optimiser = Optimiser(model, recipe.training, 100)
    average = Average(model, recipe.training.averaging, lazy=recipe.training.embedding_updates != "dense")
    weighting = build_weighting(model, recipe.training)
    batches = list(shuffled_batches(data, "train", recipe.training.batch_size, 1, 0))
    for step in range(steps):
        optimiser.zero_grad()
        batch = batches[step % len(batches)]
        losses = model.losses(batch)
        if every_row:  # as if the batch held every row
            rows = torch.arange(1, model.inputs.table.num_embeddings)
            losses |= {"every": (model.inputs.table(rows) * torch.linspace(-1, 1, rows.numel())[:, None]).sum() / 1000}
            weighting.base["every"] = 1.0
        weighting.backward(losses, batch, 0)
        touched = optimiser.touched_rows()
        before = average.before_step(touched)
        assert optimiser.step(step)
        average.update(step, touched, before)
    return model.state_dict(), average.synchronised().state_dict(), optimiser


@pytest.mark.parametrize("weighting", ["static", "pcgrad", "gradnorm"])
def test_lazy_updates_equal_dense_ones_if_every_batch_has_every_row(tiny_recipe, tmp_path, weighting):
    changes = {"training.averaging": 0.9, "training.gradient_clip": 0.5, "training.embedding_weight_decay": 0.1}
    changes |= {"model.embedding.unknown_rate": 0.0, "training.weighting": {"type": "static"}}
    if weighting == "static":
        results = [trained(tiny_recipe(None, changes | more), tmp_path, 12, every_row=True) for more in ({}, LAZY)]
    else:  # these see only the gradients of the tasks; the first step moves only rows that the batch has
        changes |= {"training.weighting": {"type": weighting}, "training.averaging": 0.0}
        results = [trained(tiny_recipe(None, changes | more), tmp_path, 1) for more in ({}, LAZY)]
    (dense, dense_average, _), (lazy, lazy_average, optimiser) = results
    assert optimiser.lazy
    for name in dense:
        torch.testing.assert_close(lazy[name], dense[name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(lazy_average[name], dense_average[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", ["lazy_adam", "rowwise_adagrad"])
def test_a_batch_changes_only_its_own_rows(tiny_recipe, tmp_path, rule):
    changes = {"training.embedding_updates": rule, "training.averaging": 0.9, "model.embedding.unknown_rate": 0.0}
    recipe = tiny_recipe(None, changes | {"training.embedding_weight_decay": 0.1, "training.batch_size": 4})
    before, _, _ = trained(recipe, tmp_path, 0)
    before = {name: value.clone() for name, value in before.items()}
    after, _, optimiser = trained(recipe, tmp_path, 1)
    (rows,) = optimiser.touched_rows()
    changed = (after[TABLE] != before[TABLE]).any(1).nonzero().flatten()
    assert set(changed.tolist()) <= set(rows.tolist())
    assert 0 < len(changed) < len(before[TABLE]) - 5
    assert 0 not in rows, "the padding row never trains"


@pytest.mark.parametrize("rule", ["lazy_adam", "rowwise_adagrad"])
def test_a_resumed_run_is_the_uninterrupted_one(tiny_recipe, tmp_path, rule):
    changes = {"training.embedding_updates": rule, "training.averaging": 0.9, "training.epochs": 2}
    recipe = tiny_recipe(None, changes)
    whole, halves = check_resumed_run(recipe, tmp_path)
    for key, value in whole["rows"]["optimiser"][0].items():
        assert torch.equal(value, halves["rows"]["optimiser"][0][key]), key


def test_a_run_with_lazy_updates_learns_and_can_be_continued(tiny_recipe, tmp_path):
    recipe = tiny_recipe(None, LAZY | {"training.averaging": 0.9, "training.epochs": 3})
    training.train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["best"]["score"] is not None
    again = {"start": tmp_path / "run"}
    training.train(recipe, tmp_path / "next", cache=tmp_path / "cache", quiet=True, reading_steps=0, **again)
    started = json.loads((tmp_path / "next" / "metrics.json").read_text())["started_from"]
    assert started["optimiser"], "the moments of the rows go on"
    before, after = (load_whole(tmp_path / name / WEIGHTS_FILE)["weights"][TABLE] for name in ("run", "next"))
    assert not torch.equal(before, after)
