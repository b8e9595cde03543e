"""Updates only the rows of an embedding table that a batch reads: lazy Adam, row-wise AdaGrad, and a lazy average.

The cost of a step depends on the rows of the batch, not on the rows of the table. A table may be bfloat16; states and
averages are float32.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from models.training.updates.bfloat16 import rounded
from models.training.updates.own_rows import ALL_ROWS, OwnRows

# Shape legend: R rows of a table, O own ones among them, U of these that a batch reads, D embedding width.

BETAS = (0.9, 0.999)
EPSILON = 1e-8
ADAGRAD_EPSILON = 1e-10
CHUNK_ROWS = 1 << 18


class RowRule(Protocol):
    """An update rule for the own rows of one table. `state`: its tensors by name, each with O as the first axis."""

    state: dict[str, Tensor]

    def step(self, rows: Tensor, gradient: Tensor, rate: float, decay: float = 0.0) -> None:
        """Apply the gradient `[U, D]` of `rows` int64 `[U]`, each row once; first take the share `decay` off them."""
        ...


def _zeros(rows: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros for each of some rows `[O, D]`, on their device: `[O, *shape]`. Their memory is taken at once: a table that
    does not fit fails at the start, and no step waits for it.
    """
    return torch.empty(len(rows), *shape, dtype=dtype, device=rows.device).zero_()


class LazyAdam:
    """Adam (Kingma & Ba, ICLR 2015, algorithm 1) for each row as if the batches that do not read it did not exist.

    A row's moments do not decay while no batch reads it, and its bias correction counts the row's own steps. torch's
    SparseAdam corrects by the steps of the run instead, so that there the first update of a late row is three times as
    large as the learning rate.
    """

    def __init__(self, table: Tensor, own: OwnRows = ALL_ROWS) -> None:
        self.table = table
        self.own = own
        # Both moments of a row lie side by side: to fetch a row costs more than to compute with it.
        self.state = {
            "moments": _zeros(own.of(table), 2, table.shape[1]),
            "steps": _zeros(own.of(table), dtype=torch.int32),
        }

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor, rate: float, decay: float = 0.0) -> None:
        """Apply the gradient `[U, D]` of `rows` int64 `[U]`, each row once; first take the share `decay` off them."""
        first, second = BETAS
        gradient = gradient.float()
        moments = self.state["moments"]
        places = self.own.places(rows)
        # `index_select` and `index_copy_` are several times as fast as brackets here.
        steps = self.state["steps"].index_select(0, places) + 1
        moments_U = moments.index_select(0, places)
        mean_U, square_U = moments_U.unbind(1)
        mean_U.lerp_(gradient, 1 - first)
        square_U.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        self.state["steps"].index_copy_(0, places, steps)
        moments.index_copy_(0, places, moments_U)
        # The corrections are computed in float64, because 0.999 ** step is close to 1 at first.
        of_mean = (rate / (1 - first ** steps.double())).float()[:, None]
        of_square = (1 - second ** steps.double()).sqrt().float()[:, None]
        change = mean_U.mul_(of_mean).div_(square_U.sqrt_().div_(of_square).add_(EPSILON))
        moved = self.table.index_select(0, rows).float().mul_(1 - decay).sub_(change)
        self.table.index_copy_(0, rows, rounded(moved, self.table.dtype))


class RowwiseAdagrad:
    """AdaGrad (Duchi et al., JMLR 2011) with one sum per row: that of the mean square of the row's gradients.

    Its state is one number per row, against 2 D of Adam. Large recommenders train their tables so: Mudigere et al.,
    ISCA 2022 (arXiv 2104.05158).
    """

    def __init__(self, table: Tensor, own: OwnRows = ALL_ROWS) -> None:
        self.table = table
        self.own = own
        self.state = {"sum": _zeros(own.of(table))}

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor, rate: float, decay: float = 0.0) -> None:
        """Apply the gradient `[U, D]` of `rows` int64 `[U]`, each row once; first take the share `decay` off them."""
        gradient = gradient.float()
        places = self.own.places(rows)
        total = self.state["sum"].index_select(0, places) + gradient.square().mean(1)
        self.state["sum"].index_copy_(0, places, total)
        scale = rate / (total.sqrt() + ADAGRAD_EPSILON)
        moved = self.table.index_select(0, rows).float().mul_(1 - decay).sub_(scale[:, None] * gradient)
        self.table.index_copy_(0, rows, rounded(moved, self.table.dtype))


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

    def __init__(self, average: Tensor, table: Tensor, decay: float, own: OwnRows = ALL_ROWS) -> None:
        """`average`: `[O, D]` of the own rows of `table` `[R, D]`."""
        self.average = average
        self.table = table
        self.decay = decay
        self.own = own
        # The number of steps that the average of a row contains, int32 `[O]`.
        self.done = _zeros(average, dtype=torch.int32)
        # The logarithm of the product of the decays of the first t steps, while the decay still grows.
        growing = max(0, math.ceil((10 * decay - 1) / (1 - decay)))
        logs = torch.tensor([0.0, *(math.log(average_decay(decay, t)) for t in range(growing))], dtype=torch.float64)
        self.logs = logs.cumsum(0).to(table.device)

    @torch.no_grad()
    def caught_up(self, rows: Tensor, steps: int) -> Tensor:
        """The average of some rows after `steps` steps `[U, D]`; they have not changed since their last update."""
        places = self.own.places(rows)
        average = self.average.index_select(0, places)
        return self._moved(average, self.table.index_select(0, rows), self.done.index_select(0, places), steps)

    @torch.no_grad()
    def update(self, rows: Tensor, before: Tensor, steps: int) -> None:
        """Average the weights of some rows that step number `steps` has changed; `before`: their average until then."""
        weight = 1 - average_decay(self.decay, steps - 1)
        places = self.own.places(rows)
        self.average.index_copy_(0, places, before.lerp_(self.table.index_select(0, rows).float(), weight))
        self.done.index_fill_(0, places, steps)

    @torch.no_grad()
    def catch_up_all(self, steps: int) -> None:
        """Bring the whole average to `steps` steps. This costs a pass over the table; evaluations need it."""
        own = self.own.of(self.table)
        for begin in range(0, len(own), CHUNK_ROWS):
            chunk = slice(begin, begin + CHUNK_ROWS)
            self.average[chunk] = self._moved(self.average[chunk], own[chunk], self.done[chunk], steps)
        self.done.fill_(steps)

    def _moved(self, average: Tensor, weights: Tensor, done: Tensor, steps: int) -> Tensor:
        remaining = torch.exp(self._log_of(done.new_tensor([steps])) - self._log_of(done)).float()[:, None]
        return weights + (average - weights) * remaining

    def _log_of(self, steps: Tensor) -> Tensor:
        """The logarithm of the product of the decays of the first `steps` steps, float64 in the shape of `steps`."""
        last = len(self.logs) - 1
        beyond = (steps - last).clamp(min=0) * math.log(self.decay)
        return self.logs.index_select(0, steps.clamp(max=last).long()) + beyond
