"""Tests the comparison of trainers without the other packages: the exchange of inputs, the selection, the table."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.trainers import compare, exchange, recipes
from bench.trainers.exchange import EncodedInputs, EncodedPart, TrainerResult, TrainerSettings
from bench.trainers.worker import run_trainer
from funnelrank.commands.bench_trainers import MODELS
from models.data.cache import open_data
from models.metrics.ranking import auc, gauc

# Two lists; the first has the labels 1 0, the second 0 1 0.
_LABELS = np.array([[1], [0], [0], [1], [0]], np.float32)
_GROUPS = np.array([1, 1, 2, 2, 2])


def part_of(labels: np.ndarray = _LABELS) -> EncodedPart:
    n = len(labels)
    keys = np.arange(2 * n, dtype=np.int32).reshape(n, 2)
    return EncodedPart(keys, np.ones((n, 1), np.float32), np.ones((n, 1), np.int32), labels, _GROUPS)


def inputs_of() -> EncodedInputs:
    return EncodedInputs(dict.fromkeys(exchange.PARTS, part_of()), (9, 10), (22,), ("is_click",))


def test_inputs_and_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    inputs = inputs_of()
    exchange.write_inputs(inputs, tmp_path)
    read = exchange.read_inputs(tmp_path)
    assert (read.key_sizes, read.bin_sizes, read.labels) == (inputs.key_sizes, inputs.bin_sizes, inputs.labels)
    for name, part in inputs.parts.items():
        for column, values in vars(part).items():
            np.testing.assert_array_equal(getattr(read.parts[name], column), values)
            assert getattr(read.parts[name], column).dtype == values.dtype
    settings = TrainerSettings("ple", 3, tower_hidden=(5, 4))
    exchange.write_settings(settings, tmp_path / "settings.json")
    assert exchange.read_settings(tmp_path / "settings.json") == settings


def test_the_exchange_needs_numpy_alone() -> None:
    """The other packages' environment has none of ours."""
    code = (
        "import sys, bench.trainers.exchange; print([m for m in sys.modules if m in ('models', 'torch', 'features')])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


class TwoEpochs:
    """Scores wrongly after the first epoch and rightly after the second one."""

    package = "some-package"
    version = "1"

    def __init__(self) -> None:
        self.epoch = -1

    def train_epoch(self, epoch: int) -> None:
        assert epoch == self.epoch + 1
        self.epoch = epoch

    def scores(self, part: str) -> np.ndarray:
        right = _LABELS if self.epoch == 1 else 1 - _LABELS
        return right + (0 if part == "validation" else np.arange(5)[:, None])


def test_the_epoch_is_selected_on_validation_and_measured_on_test(tmp_path: Path) -> None:
    inputs = inputs_of()
    settings = TrainerSettings("mmoe", 1, epochs=2)
    exchange.write_result(run_trainer(TwoEpochs(), settings), tmp_path / "result.npz")
    result = exchange.read_result(tmp_path / "result.npz")
    row = compare.measured(inputs, settings, result)
    scores = (_LABELS + np.arange(5)[:, None])[:, 0]
    assert row.epoch == 2
    assert row.auc["is_click"] == auc(_LABELS[:, 0], scores) == pytest.approx(3 / 6)
    # The first list is tied (1 and 1), the second ordered 2 < 4 = 4: (0.5 * 2 + 0.75 * 3) / 5.
    assert row.gauc["is_click"] == gauc(_LABELS[:, 0], scores, _GROUPS).value == pytest.approx(0.65)
    assert row.package == "some-package 1"


def test_the_speed_is_that_of_the_fastest_epoch() -> None:
    scores = {"validation": _LABELS, "test": _LABELS}
    result = TrainerResult("p", "1", (2.0, 0.5), (scores, scores))
    assert compare.measured(inputs_of(), TrainerSettings("mmoe", 1), result).rows_per_second == 10.0


def test_the_table_has_a_line_per_package_with_the_deviation_over_seeds() -> None:
    rows = [
        compare.TrainerRow("mmoe", "a 1", {"is_click": 0.75}, {"is_click": 0.625}, 2, 1000.0),
        compare.TrainerRow("mmoe", "a 1", {"is_click": 0.77}, {"is_click": 0.625}, 3, 1200.0),
        compare.TrainerRow("mmoe", "b 2", {"is_click": 0.7}, {"is_click": 0.5}, 1, 9.0),
    ]
    assert compare.table(rows).splitlines() == [
        "| mmoe | is_click, AUC / GAUC | rows/s | epoch | seeds |",
        "| --- | --- | --- | --- | --- |",
        "| a 1 | 0.7600 ± 0.0141 / 0.6250 ± 0.0000 | 1,200 | 2, 3 | 2 |",
        "| b 2 | 0.7000 / 0.5000 | 9 | 1 | 1 |",
    ]


def test_a_failed_training_names_its_log(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no_such_module ended with 1; .*no_such_module-3-1\.log"):
        compare._trained("no_such_module", "false", tmp_path, TrainerSettings("mmoe", 1))


def test_the_command_offers_every_model() -> None:
    assert tuple(recipes.LABELS) == recipes.MODELS == MODELS


@pytest.mark.slow  # encodes the sample's tables
def test_our_trainer_trains_on_the_inputs_that_the_others_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.trainers import ours

    monkeypatch.setattr(recipes, "CACHE", tmp_path / "cache")
    data = open_data(recipes.compared_recipe("esmm", 1, 1), tmp_path / "cache")
    inputs = recipes.encoded_inputs(data, recipes.LABELS["esmm"])
    for part in inputs.parts.values():
        assert (part.keys.max(axis=0) < inputs.key_sizes).all()
        assert (part.bins.max(axis=0) < inputs.bin_sizes).all()
        assert np.isfinite(part.numerics).all()
        assert (part.labels[:, 1] <= part.labels[:, 0]).all()
    result = run_trainer(ours.build(inputs, TrainerSettings("esmm", 1, epochs=1)), TrainerSettings("esmm", 1, epochs=1))
    row = compare.measured(inputs, TrainerSettings("esmm", 1), result)
    assert row.auc["is_click"] > 0.7
