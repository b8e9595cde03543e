"""Tests the scale benchmark of training at small sizes: its figures, and that a step's work follows the batch."""

import json
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.scale.parts import ScaleSizes
from bench.scale.run import PARTS, run_scale
from bench.scale.synthetic import scale_data, scale_recipe
from funnelrank.commands.bench_scale import SCALE_PARTS
from models.data.batches import shuffled_batches
from models.network.build import build_model
from models.training.session import Progress
from models.training.step import TrainingState, train_step
from models.training.updates.averaging import Average
from models.training.updates.optimisation import Optimiser
from models.training.weighting import build_weighting


@pytest.mark.slow  # each size starts a process that imports torch
def test_the_command_measures_and_judges_training(tmp_path, capsys):
    out = tmp_path / "scale.json"
    sizes = ScaleSizes(training_rows=(2_000, 20_000), dim=4, steps=20, batch_size=64)
    passed = run_scale(sizes, ("training",), out)
    measured = json.loads(out.read_text())["parts"]["training"]
    assert [of["rows"] for of in measured["sizes"]] == [2_000, 20_000]
    assert all(of["rows_per_cpu_s"] > 0 and of["checkpoint_bytes"] > of["table_bytes"] for of in measured["sizes"])
    speed, memory = measured["verdicts"]
    ratio = measured["sizes"][1]["rows_per_cpu_s"] / measured["sizes"][0]["rows_per_cpu_s"]
    assert speed["value"] == pytest.approx(ratio)
    assert memory["passed"], "a small model takes less than 1 GiB"
    assert passed == (speed["passed"] and memory["passed"])
    printed = capsys.readouterr().out
    assert printed.count("PASS") + printed.count("MISS") == 2


def test_the_command_line_knows_every_part():
    assert tuple(PARTS) == SCALE_PARTS


class NumbersRead(TorchDispatchMode):
    """Counts the numbers of all tensors that operators give out, in which a pass over the table would show."""

    def __init__(self):
        super().__init__()
        self.numbers = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        # Views and updates in place give out a tensor that they have not read.
        makes = not (func._schema.is_mutable or func.is_view)
        if makes and isinstance(result, torch.Tensor) and not result.is_sparse:
            self.numbers[str(func)] += result.numel()
        return result


@pytest.mark.parametrize("updates", ["lazy_adam", "rowwise_adagrad"])
def test_a_steps_work_does_not_grow_with_the_table(updates, tmp_path):
    """The same batch over a table ten times as large: the operators of a step compute as many numbers."""
    worked = {}
    recipe = scale_recipe(8, updates, 64)
    data = scale_data(recipe, 3_000, 128, seed=1)
    for rows in (3_000, 30_000):
        torch.manual_seed(1)
        model = build_model(recipe, scale_data(recipe, rows, 64, seed=1).encoding)
        average = Average(model, recipe.training.averaging, lazy=True)
        optimiser = Optimiser(model, recipe.training, 10)
        weighting = build_weighting(model, recipe.training)
        state = TrainingState(data, tmp_path, {}, model, average, optimiser, weighting, Progress(), seed=1)
        with NumbersRead() as read:
            for batch in shuffled_batches(data, "train", 64, 1, 0):
                train_step(state, batch, 0)
                state.progress.step += 1
        worked[rows] = read.numbers.total()
    # Drawn values differ, and with them how many unknown rows are read.
    assert worked[30_000] / worked[3_000] == pytest.approx(1.0, abs=0.02)
