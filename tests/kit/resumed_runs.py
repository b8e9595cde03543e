"""Trains a run without a stop, and again stopped at its first checkpoint and resumed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from models.data.cache import open_data
from models.recipe import Recipe
from models.training.checkpoint import load_whole
from models.training.loop import learn


class StoppedError(Exception):
    """Ends a run in the middle."""


def stop(progress: object, share: float) -> None:
    raise StoppedError


def check_resumed_run(recipe: Recipe, folder: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Assert that both runs end with the same weights and the same average, bit for bit; return their checkpoints."""
    data = open_data(recipe, folder / "cache")
    learn(recipe, data, folder / "whole", quiet=True, checkpoint_steps=3)
    with pytest.raises(StoppedError):
        learn(recipe, data, folder / "halves", quiet=True, checkpoint_steps=3, watch=stop)
    learn(recipe, data, folder / "halves", quiet=True, checkpoint_steps=3, resume=True)
    whole, halves = (load_whole(folder / name / "resume.pt") for name in ("whole", "halves"))
    for name, value in whole["weights"].items():
        assert torch.equal(value, halves["weights"][name]), name
        assert torch.equal(whole["average"][name], halves["average"][name]), name
    return whole, halves
