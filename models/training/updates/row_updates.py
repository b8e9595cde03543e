"""Updates only the rows of an embedding table that a batch reads: lazy Adam, row-wise AdaGrad, and a lazy average.

The cost of a step depends on the rows of the batch, not on the rows of the table.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

# Shape legend: R rows of a table, U rows that a batch reads, D embedding width.

BETAS = (0.9, 0.999)
EPSILON = 1e-8
ADAGRAD_EPSILON = 1e-10
CHUNK_ROWS = 1 << 18


class RowRule(Protocol):
    """An update rule for the rows of one table. `state`: its tensors by name, each with R as the first axis."""

    state: dict[str, Tensor]

    def step(self, rows: Tensor, gradient: Tensor, rate: float) -> None:
        """Apply the gradient `[U, D]` of `rows` int64 `[U]`, each row once."""
        ...


class LazyAdam:
    """Adam (Kingma & Ba, ICLR 2015, algorithm 1) for each row as if the batches that do not read it did not exist.

    A row's moments do not decay while no batch reads it, and its bias correction counts the row's own steps. torch's
    SparseAdam corrects by the steps of the run instead, so that there the first update of a late row is three times as
    large as the learning rate.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        # The system gives a page of zeros its memory when a row in it is first written.
        self.state = {
            "mean": torch.zeros(table.shape),
            "square": torch.zeros(table.shape),
            "steps": torch.zeros(len(table), dtype=torch.int32),
        }

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor, rate: float) -> None:
        """Apply the gradient `[U, D]` of `rows` int64 `[U]`, each row once."""
        first, second = BETAS
        # Moments and counts of these rows.
        steps = self.state["steps"][rows] + 1
        mean = self.state["mean"][rows].lerp_(gradient, 1 - first)
        square = self.state["square"][rows].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        self.state["steps"][rows] = steps
        self.state["mean"][rows] = mean
        self.state["square"][rows] = square
        # The corrections are computed in float64, because 0.999 ** step is close to 1 at first.
        of_mean = (rate / (1 - first ** steps.double())).float()[:, None]
        of_square = (1 - second ** steps.double()).sqrt().float()[:, None]
        change = mean.mul_(of_mean).div_(square.sqrt_().div_(of_square).add_(EPSILON))
        self.table[rows] = self.table[rows] - change


class RowwiseAdagrad:
    """AdaGrad (Duchi et al., JMLR 2011) with one sum per row: that of the mean square of the row's gradients.

    Its state is one number per row, against 2 D of Adam. Large recommenders train their tables so: Mudigere et al.,
    ISCA 2022 (arXiv 2104.05158).
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.state = {"sum": torch.zeros(len(table))}

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor, rate: float) -> None:
        """Apply the gradient `[U, D]` of `rows` int64 `[U]`, each row once."""
        total = self.state["sum"][rows] + gradient.square().mean(1)
        self.state["sum"][rows] = total
        scale = rate / (total.sqrt() + ADAGRAD_EPSILON)
        self.table[rows] = self.table[rows] - scale[:, None] * gradient


ROW_RULES: dict[str, type[LazyAdam] | type[RowwiseAdagrad]] = {
    "lazy_adam": LazyAdam,
    "rowwise_adagrad": RowwiseAdagrad,
}


def average_decay(decay: float, step: int) -> float:
    """The decay of the moving average at a step counted from 0, so that the first weights lose their influence soon."""
    return min(decay, (1 + step) / (10 + step))


class LazyRows:
    """The moving average of one table, brought up to date only in the rows that change.

    A row w that does not change from one step to another keeps a part of its distance to the average a: the product of
    the decays of these steps. So a = w + (a - w) * product, which is what averaging in every step gives.
    """

    def __init__(self, average: Tensor, table: Tensor, decay: float) -> None:
        self.average = average
        self.table = table
        self.decay = decay
        # The number of steps that the average of a row contains, int32 `[R]`.
        self.done = torch.zeros(len(table), dtype=torch.int32)
        # The logarithm of the product of the decays of the first t steps, while the decay still grows.
        growing = math.ceil((10 * decay - 1) / (1 - decay)) if decay < 1 else 0
        logs = torch.tensor([0.0, *(math.log(average_decay(decay, t)) for t in range(max(0, growing)))])
        self.logs = logs.double().cumsum(0)

    @torch.no_grad()
    def catch_up(self, rows: Tensor | slice, steps: int) -> None:
        """Bring the average of some rows to `steps` steps; these rows have not changed since their last update."""
        weights = self.table[rows].float()
        remaining = torch.exp(self._log_of(torch.tensor([steps])) - self._log_of(self.done[rows])).float()[:, None]
        self.average[rows] = (weights + (self.average[rows].float() - weights) * remaining).to(self.average.dtype)
        self.done[rows] = steps

    def catch_up_all(self, steps: int) -> None:
        """Bring the whole average to `steps` steps. This costs a pass over the table; evaluations need it."""
        for begin in range(0, len(self.table), CHUNK_ROWS):
            self.catch_up(slice(begin, begin + CHUNK_ROWS), steps)

    def _log_of(self, steps: Tensor) -> Tensor:
        """The logarithm of the product of the decays of the first `steps` steps, float64 in the shape of `steps`."""
        last = len(self.logs) - 1
        beyond = (steps - last).clamp(min=0) * math.log(self.decay)
        return self.logs[steps.clamp(max=last).long()] + beyond
