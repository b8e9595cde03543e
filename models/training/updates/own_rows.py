"""The rows of the tables that one of several processes updates."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

# Takes the own rows of a tensor and the number of all rows, and returns the tensor with all rows.
Whole = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class OwnRows:
    """The rows `number`, `number + count`, `number + 2 * count`, ... of every table; by default all rows.

    What belongs to these rows alone is kept for them alone: a process has its part of the moments and of the average.
    Neighbouring rows have different processes, so that each process has about as many rows of a batch.
    """

    number: int = 0
    count: int = 1

    def places(self, rows: Tensor) -> Tensor:
        """The places of some own rows int64 `[U]` among all own rows."""
        return rows if self.count == 1 else rows.div(self.count, rounding_mode="floor")

    def of(self, tensor: Tensor) -> Tensor:
        """The own rows of a tensor `[R, ...]`, as a view."""
        return tensor if self.count == 1 else tensor[self.number :: self.count]


ALL_ROWS = OwnRows()


def are_whole(rows: Tensor, count: int) -> Tensor:
    """Return the tensor itself: the `Whole` of a process that has all rows."""
    return rows
