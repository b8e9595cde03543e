"""Chooses the device that a run trains on, and moves batches and state to it."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from models.data.batches import Batch
from models.recipe import RecipeError

CPU = torch.device("cpu")
CHOICES = "cpu, cuda, cuda:N or auto"


def chosen_device(name: str) -> torch.device:
    """The device of this name; `auto` is the first GPU, or the processor if there is none.

    Raises RecipeError if the name is unknown or the machine lacks the device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise RecipeError(f"--device: '{name}' is no device; choose {CHOICES}")
    if kind == "cpu":
        return CPU
    if not torch.cuda.is_available():
        raise RecipeError("--device: torch finds no GPU on this machine; train with --device cpu, or auto")
    count = torch.cuda.device_count()
    if int(number or 0) >= count:
        raise RecipeError(f"--device: the machine has {count} GPU(s), numbered from 0; '{name}' is not among them")
    # Products of matrices repeat only with a workspace of a fixed size, which CUDA reads when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device(kind, int(number or 0))


def device_of(module: nn.Module) -> torch.device:
    """The device that a module's weights are on."""
    return next(module.parameters()).device


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield the batches with their tensors on the device."""
    if device.type == "cpu":
        yield from batches
        return
    for batch in batches:
        # From pinned memory the copy runs beside the computation of the batch before.
        pinned = {name: values.pin_memory() for name, values in batch.items()}
        yield moved(pinned, device)


def moved(state: Any, device: torch.device) -> Any:
    """Return nested dicts and lists with all tensors on the device; other values stay as they are."""
    if isinstance(state, torch.Tensor):
        return state.to(device, non_blocking=True)
    if isinstance(state, dict):
        return {name: moved(value, device) for name, value in state.items()}
    if isinstance(state, list):
        return [moved(value, device) for value in state]
    return state


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of the random generators that training draws from."""
    state = {"random": torch.get_rng_state()}
    if device.type == "cuda":
        state["random_cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore the result of `random_state`; a run that continues on another device draws anew there."""
    torch.set_rng_state(state["random"])
    if device.type == "cuda" and "random_cuda" in state:
        torch.cuda.set_rng_state(state["random_cuda"], device)
