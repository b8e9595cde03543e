"""Tests the updates of weights: decay of embeddings, AdaGrad, learning rates, the average and its statistics."""

import pytest
import torch
from small_rankers import small, training_batch

from models import train as training
from models.data.batches import shuffled_batches
from models.data.cache import open_data
from models.layers.activation import Dice
from models.layers.normalisation import NormalisedLinear
from models.network.build import build_model
from models.training.run import open_run
from models.training.updates.averaging import Average, estimate_statistics
from models.training.updates.optimisation import Optimiser, rate_factor


def test_embedding_decay_spares_rows_that_the_batch_does_not_hold(tiny_recipe, tmp_path):
    recipe = tiny_recipe(None, {"training.embedding_weight_decay": 0.5, "training.embedding_learning_rate": 1e-9})
    data = open_data(recipe, tmp_path / "cache")
    ranker = build_model(recipe, data.encoding, data.cross_values)
    optimiser = Optimiser(ranker, recipe.training.model_copy(update={"embedding_learning_rate": 0.1}), 10)
    optimiser.rule.param_groups[0]["lr"] = 0.0
    (table,) = optimiser.embeddings
    before = table.detach().clone()
    table.grad = torch.zeros_like(table)
    table.grad[3] = 1.0
    optimiser._decay_embeddings(0.1)
    changed = (table != before).any(1)
    assert changed.nonzero().flatten().tolist() == [3]
    assert torch.allclose(table[3], before[3] * 0.9)


def test_adagrad_moves_by_the_gradient_over_the_root_of_all_its_squares(tiny_recipe, tmp_path):
    recipe = tiny_recipe(
        None, {"training.optimiser": "adagrad", "training.learning_rate": 0.1, "training.weight_decay": 0.5}
    )
    data = open_data(recipe, tmp_path / "cache")
    ranker = build_model(recipe, data.encoding, data.cross_values)
    optimiser = Optimiser(ranker, recipe.training, 10)
    dense = optimiser.parameters[-1]
    untouched = optimiser.parameters[-2]
    before = dense.detach().clone()
    initial = untouched.detach().clone()
    for number in range(2):
        dense.grad = torch.full_like(dense, 2.0)
        assert optimiser.step(number)
    once = before * (1 - 0.1 * 0.5) - 0.1
    torch.testing.assert_close(dense.detach(), once * (1 - 0.1 * 0.5) - 0.1 * 2 / 8**0.5)
    assert torch.equal(untouched, initial), "what has no gradient, as in a frozen representation, stays"


def test_the_learning_rate_warms_up_and_falls_along_a_cosine(tiny_recipe):
    section = tiny_recipe(
        None, {"training.warmup_steps": 10, "training.schedule": "cosine", "training.final_rate": 0.1}
    ).training
    assert rate_factor(section, 0, 100) == pytest.approx(0.1)
    assert rate_factor(section, 50, 100) == pytest.approx(0.1 + 0.9 * 0.5)
    assert rate_factor(section, 100, 100) == pytest.approx(0.1)


def test_the_average_follows_the_weights(tiny_recipe, tmp_path):
    recipe = tiny_recipe()
    data = open_data(recipe, tmp_path / "cache")
    ranker = build_model(recipe, data.encoding, data.cross_values)
    average = Average(ranker, 0.5)
    old = average.ranker.towers.state_dict()
    old = {k: v.clone() for k, v in old.items()}
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(1.0)
    average.update(1000)
    for name, value in average.ranker.towers.state_dict().items():
        assert torch.allclose(value, old[name] + 0.5)


def test_statistics_of_normalised_layers_are_estimated_over_the_batches():
    model = small("home")
    batches = [training_batch(model, 20, 3, seed) for seed in range(3)]
    layers = [module for module in model.ranker.modules() if isinstance(module, NormalisedLinear)]
    means = {layer: [] for layer in layers}
    for layer in layers:
        layer.register_forward_pre_hook(lambda layer, given: means[layer].append((given[0] @ layer.weight).mean(1)))
    estimate_statistics(model.ranker, lambda: batches)
    assert len(layers) == 2 and not model.ranker.training
    for layer in layers:
        torch.testing.assert_close(layer.mean[:, 0], torch.stack(means[layer]).mean(0))
        assert layer.momentum == 0.1


def test_dices_statistics_are_those_of_the_averaged_weights(tiny_recipe, tmp_path):
    """The live model's statistics belong to other weights: a unit of the averaged network has another mean."""
    changes = {"model.encoders": [{"type": "din", "hidden": [8], "activation": "dice"}], "training.epochs": 3}
    recipe = tiny_recipe(None, changes | {"training.learning_rate": 0.05, "training.averaging": 0.98})
    training.train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    ranker = open_run(tmp_path / "run").ranker
    data = open_data(recipe, tmp_path / "cache")
    dices = [module for module in ranker.modules() if isinstance(module, Dice)]
    assert dices
    seen = {}
    for dice in dices:
        dice.register_forward_pre_hook(lambda module, given: seen.setdefault(module, []).append(given))
    with torch.no_grad():
        for batch in shuffled_batches(data, "train", recipe.training.batch_size, recipe.training.seed, 0):
            ranker(batch)
    for dice in dices:
        means = []
        for x, *mask in seen[dice]:
            real = x[mask[0]] if mask and mask[0] is not None else x.reshape(-1, x.shape[-1])
            means.append(real.mean(0))
        torch.testing.assert_close(dice.mean, torch.stack(means).mean(0), rtol=1e-3, atol=1e-4)
