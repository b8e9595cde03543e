"""Checks that the test of every paper ends with: gradients, a user's part of one row, and the graph against torch."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from small_rankers import Small, raw_inputs, score
from torch import Tensor, nn

from export.graph import to_onnx
from models.trunks.base import TrunkInput

STEP = 1e-6
SIZES = ((1, 0), (1, 3), (7, 0), (64, 17))  # candidates, behaviours


def weighted(out: Tensor, seed: int = 5) -> Tensor:
    """A scalar to differentiate: the sum of an output, whose numbers have fixed random weights."""
    return (out * torch.from_numpy(np.random.default_rng(seed).normal(size=tuple(out.shape)))).sum()


def assert_gradients(
    module: nn.Module,
    loss: Callable[[], Tensor],
    differenced: Callable[[], Any] | None = None,
    atol: float = 2e-6,
) -> None:
    """Assert that three numbers of every parameter (float64) have the gradient of the finite differences of `loss`.

    `differenced` takes the place of `loss` in the differences: a reference in which a part is constant, for example.
    """
    module.zero_grad()
    loss().backward()
    rng = np.random.default_rng(5)
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        flat = parameter.data.view(-1)
        for i in rng.choice(len(flat), min(3, len(flat)), replace=False):
            expected = _difference(flat, int(i), differenced or loss)
            assert float(parameter.grad.view(-1)[i]) == pytest.approx(expected, abs=atol), name


def _difference(flat: Tensor, i: int, loss: Callable[[], Any]) -> float:
    value = float(flat[i])
    ends = []
    with torch.no_grad():
        for step in (STEP, -STEP):
            flat[i] = value + step
            ends.append(float(loss()))
        flat[i] = value
    return (ends[0] - ends[1]) / (2 * STEP)


def assert_one_row_equals_repeated(of: Callable[[TrunkInput], Tensor], once: TrunkInput) -> Tensor:
    """Assert that parts of one row give what the same row repeated gives, and return it."""
    rows = max(len(part) for part in once.parts)

    def repeated(tensor: Tensor | None) -> Tensor | None:
        return tensor if tensor is None or len(tensor) > 1 else tensor.expand(rows, *tensor.shape[1:])

    parts = [part if len(part) > 1 else part.expand(rows, -1) for part in once.parts]
    out = of(once)
    torch.testing.assert_close(out, of(TrunkInput(parts, repeated(once.context), repeated(once.domain))))
    return out


def assert_graph_equals_torch(
    model: Small, requests: Iterable[dict[str, np.ndarray]] | None = None, atol: float = 1e-5
) -> None:
    """Assert that ONNX Runtime scores requests as torch does; by default random ones of the SIZES."""
    session = ort.InferenceSession(to_onnx(model.graph, model.encoding).SerializeToString())
    names = [output.name for output in session.get_outputs()]
    for inputs in requests or [raw_inputs(model, *size, seed=sum(size)) for size in SIZES]:
        expected = score(model, inputs)
        for name, got in zip(names, session.run(names, inputs), strict=True):
            np.testing.assert_allclose(got, expected[name], atol=atol, rtol=0)
