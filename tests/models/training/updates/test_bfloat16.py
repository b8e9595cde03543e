"""Tests tables in bfloat16: rounding in the mean, both rules against float32, and a run up to its weights."""

import pytest
import torch
from resumed_runs import check_resumed_run

from models import train as training
from models.data.batches import shuffled_batches
from models.data.cache import open_data
from models.network.build import build_model
from models.recipe import RecipeError
from models.training.checkpoint import WEIGHTS_FILE, load_whole
from models.training.run import open_run
from models.training.updates.averaging import Average
from models.training.updates.bfloat16 import rounded, tables_to
from models.training.updates.optimisation import Optimiser
from models.training.updates.row_updates import LazyAdam, RowwiseAdagrad

TABLE = "inputs.table.weight"
HALF = {"training.embedding_updates": "lazy_adam", "training.embedding_dtype": "bfloat16", "training.averaging": 0.9}


def test_a_number_is_rounded_to_a_neighbour_so_that_the_mean_is_right():
    torch.manual_seed(1)
    values = torch.tensor([0.05, -0.05, 1.0, 0.0, -3.1415, 1e-20, 255.9, -1e-3])
    drawn = torch.stack([rounded(values, torch.bfloat16) for _ in range(20_000)]).double()
    exact = values.double()
    distance = (exact.abs() * 2**-7).clamp(min=1e-30)
    assert ((drawn - exact).abs() <= distance).all()
    assert ((drawn.mean(0) - exact).abs() <= 4 * distance / 20_000**0.5).all()
    assert (drawn[:, 2] == 1).all() and (drawn[:, 3] == 0).all(), "numbers that bfloat16 has stay"
    assert rounded(values, torch.float32) is values


@pytest.mark.parametrize("make", [LazyAdam, RowwiseAdagrad])
def test_small_steps_count_although_the_table_is_coarse(make):
    """Each step is a hundredth of the distance to the next number, so that the nearest one would stay for ever."""
    torch.manual_seed(2)
    table = torch.full((4000, 4), 1.0, dtype=torch.bfloat16)
    rows = torch.arange(len(table))
    rule = make(table)
    reference = make(torch.full((4000, 4), 1.0))
    for _ in range(100):
        gradient = torch.ones(4000, 4)
        rule.step(rows, gradient.bfloat16(), 4e-5)
        reference.step(rows, gradient, 4e-5)
    assert all(state.dtype in (torch.float32, torch.int32) for state in rule.state.values())
    expected = reference.table.double().mean()
    moved = 1 - expected
    assert moved > 4e-4
    assert abs(table.double().mean() - expected) < 0.05 * moved


def test_the_gradient_of_a_batch_is_that_of_float32_within_the_precision(tiny_recipe, tmp_path):
    recipe = tiny_recipe(None, HALF | {"model.embedding.unknown_rate": 0.0})
    data = open_data(recipe, tmp_path / "cache")
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(1)
        model = build_model(recipe, data.encoding)
        # The same numbers in both, which bfloat16 has.
        tables_to(model, torch.bfloat16)
        tables_to(model, dtype)
        Optimiser(model, recipe.training, 10)
        batch = next(iter(shuffled_batches(data, "train", 16, 1, 0)))
        sum(model.losses(batch).values()).backward()
        gradients.append(model.inputs.table.weight.grad.to_dense().double())
        assert all(p.dtype == torch.float32 for n, p in model.named_parameters() if n != TABLE)
    exact, coarse = gradients
    assert exact.abs().max() > 0
    assert ((coarse - exact).abs() <= exact.abs() * 2**-7 + 1e-9).all()


def test_the_average_and_the_weights_of_a_run_are_float32(tiny_recipe, tmp_path):
    recipe = tiny_recipe(None, HALF)
    data = open_data(recipe, tmp_path / "cache")
    model = build_model(recipe, data.encoding)
    tables_to(model, torch.bfloat16)
    assert model.inputs.table.weight.dtype == torch.bfloat16
    average = Average(model, 0.9, lazy=True)
    assert average.ranker.inputs.table.weight.dtype == torch.float32


@pytest.mark.parametrize("rule", ["lazy_adam", "rowwise_adagrad"])
@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_a_run_learns_and_its_model_is_float32(tiny_recipe, tmp_path, rule, averaging):
    changes = HALF | {"training.averaging": averaging, "training.embedding_updates": rule}
    training.train(tiny_recipe(None, changes), tmp_path / "run", cache=tmp_path / "c", quiet=True, reading_steps=0)
    assert open_run(tmp_path / "run").ranker.inputs.table.weight.dtype == torch.float32


def test_a_resumed_run_in_bfloat16_is_the_uninterrupted_one(tiny_recipe, tmp_path):
    recipe = tiny_recipe(None, HALF | {"training.epochs": 2})
    whole, _ = check_resumed_run(recipe, tmp_path)
    assert whole["weights"][TABLE].dtype == torch.bfloat16
    best = [load_whole(tmp_path / name / WEIGHTS_FILE)["weights"][TABLE] for name in ("whole", "halves")]
    assert torch.equal(*best)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training.embedding_updates": "dense"}, "bfloat16 needs embedding_updates other than dense"),
        ({"training.weighting": {"type": "pcgrad"}}, "bfloat16 does not go with weighting 'pcgrad'"),
        ({"training.weighting": {"type": "gradnorm"}}, "bfloat16 does not go with weighting 'gradnorm'"),
    ],
)
def test_what_does_not_go_with_bfloat16_is_refused(tiny_recipe, changes, words):
    with pytest.raises(RecipeError, match=words):
        tiny_recipe(None, HALF | changes)
