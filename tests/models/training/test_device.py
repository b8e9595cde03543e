"""Tests the choice of a device, and that training makes no tensor on the processor in passing.

There is no GPU here; `python -m tools.gpu_check` compares the numbers on a machine that has one.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_rankers import small, training_batch
from small_tables import RECIPE, make_tables, merged, write_tables
from torch.overrides import TorchFunctionMode

import models
from models.catalogue import CATALOGUE
from models.data.cache import open_data
from models.recipe import RecipeError, parse_recipe
from models.train import train
from models.training import device as devices
from models.training import loop
from models.training.checkpoint import WEIGHTS_FILE, load_whole
from models.training.device import CPU, chosen_device, device_of, moved, on_device
from models.training.updates.averaging import Average
from models.training.updates.optimisation import Optimiser
from models.training.weighting import build_weighting

MODELS = str(Path(models.__file__).parent)
FACTORIES = {
    torch.zeros,
    torch.ones,
    torch.full,
    torch.empty,
    torch.eye,
    torch.arange,
    torch.linspace,
    torch.tensor,
    torch.as_tensor,
    torch.from_numpy,
    torch.rand,
    torch.randn,
    torch.randperm,
}


class WithoutDevice(TorchFunctionMode):
    """Records the lines of `models` that make a tensor without saying on which device."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: set[str] = set()

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in FACTORIES and "device" not in (kwargs or {}):
            frame = sys._getframe(1)
            if frame.f_code.co_filename.startswith(MODELS):
                self.lines.add(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        return function(*args, **(kwargs or {}))


def test_the_mode_sees_a_tensor_without_a_device() -> None:
    def made_in_models() -> None:
        exec(compile("torch.zeros(2)", f"{MODELS}/some_file.py", "exec"), {"torch": torch})

    with WithoutDevice() as mode:
        made_in_models()
        torch.zeros(2)
    assert mode.lines == {f"{MODELS}/some_file.py:1"}


@pytest.mark.parametrize("updates", ["dense", "lazy_adam", "rowwise_adagrad"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_a_step_makes_every_tensor_on_the_device_of_the_model(name: str, updates: str) -> None:
    one = small(name)
    section = one.recipe.training.model_copy(update={"embedding_updates": updates, "averaging": 0.9})
    optimiser = Optimiser(one.ranker, section, 10)
    average = Average(one.ranker, section.averaging, lazy=updates != "dense")
    batch = training_batch(one, 12, behaviours=4)
    one.ranker.train()
    weighting = build_weighting(one.ranker, section)
    with WithoutDevice() as mode:
        losses = one.ranker.losses(batch)
        optimiser.zero_grad()
        weighting.backward(losses, batch, 0)
        touched = optimiser.touched_rows()
        before = average.before_step(touched)
        assert optimiser.step(0)
        average.update(0, touched, before)
        ranker = average.synchronised().eval()
        ranker(batch)
        ranker.gate_means(batch)
        ranker.gating(batch)
    assert mode.lines == set()


def test_a_device_has_a_name_that_the_machine_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_device("cpu") == CPU
    for name in ("gpu", "cpu:1", "cuda:x", ""):
        with pytest.raises(RecipeError, match=r"--device: .* choose cpu, cuda, cuda:N or auto"):
            chosen_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == CPU
    with pytest.raises(RecipeError, match="no GPU on this machine"):
        chosen_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices.os, "environ", {})
    assert chosen_device("auto") == torch.device("cuda", 0)
    assert chosen_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(RecipeError, match=r"2 GPU\(s\), numbered from 0; 'cuda:2'"):
        chosen_device("cuda:2")


def test_batches_and_state_are_moved_as_a_whole() -> None:
    state = {"a": torch.ones(2), "b": [{"c": torch.zeros(1)}, 3], "d": "text"}
    there = moved(state, torch.device("meta"))
    assert there["a"].device.type == there["b"][0]["c"].device.type == "meta"
    assert (there["b"][1], there["d"]) == (3, "text")
    batch = {"x": torch.ones(1)}
    assert next(on_device([batch], CPU)) is batch
    assert device_of(torch.nn.Linear(1, 1)) == CPU


def test_a_transfer_takes_weights_over_on_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU refuses to put rows of the processor's memory into its table."""

    class ReachedError(Exception):
        pass

    def start_from(recipe: Any, model: torch.nn.Module, encoding: Any) -> None:
        raise ReachedError(device_of(model))

    monkeypatch.setattr(loop, "start_from", start_from)
    data = write_tables(tmp_path / "data", make_tables())
    recipe = parse_recipe(merged(RECIPE, {"data.dir": str(data)}), "a test")
    with pytest.raises(ReachedError, match="cpu"):
        loop.learn(recipe, open_data(recipe, tmp_path / "cache"), tmp_path / "run", device=torch.device("meta"))


def test_a_run_on_a_device_that_is_not_there_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    data = write_tables(tmp_path / "data", make_tables())
    recipe = parse_recipe(merged(RECIPE, {"data.dir": str(data), "training.epochs": 1}), "a test")
    options: dict[str, Any] = {"cache": tmp_path / "cache", "reading_steps": 0, "quiet": True}
    with pytest.raises(RecipeError, match="no GPU on this machine"):
        train(recipe, tmp_path / "cuda", **options, device="cuda")
    assert not (tmp_path / "cuda").exists()
    # `auto` is the default run, bit for bit.
    for name in ("cpu", "auto"):
        train(recipe, tmp_path / name, **options, device=name)
    default, automatic = (load_whole(tmp_path / name / WEIGHTS_FILE)["weights"] for name in ("cpu", "auto"))
    assert all(torch.equal(default[key], automatic[key]) for key in default)
