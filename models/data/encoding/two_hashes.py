"""Numbers the values of a hashed vocabulary by a code, from which two hashes of its rows follow.

Source: the quotient-remainder trick in its form by the Chinese remainder theorem (Shi et al., "Compositional Embeddings
Using Complementary Partitions", KDD 2020, arXiv 1909.02107), with a sum: hash embeddings (Svenstrup et al., NeurIPS
2017) of two hashes, without importance weights. A value's embedding is the sum of a row of the first pool and a row of
the second one. The pools have sizes without a common factor, so two values have both rows in common only if they have
the same code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

# Codes begin where no row is, and end with int32.
FIRST_CODE = 1 << 30
_CODES = 1 << 30
Numbers = TypeVar("Numbers", np.ndarray, Tensor)


@dataclass(frozen=True)
class Pools:
    """The codes `first_code` to `first_code + codes - 1` of a vocabulary, and the rows of its two pools.

    The rows `first_row` to `first_row + size` are the first pool, which has one row more than the second one (`size`),
    whose rows follow.
    """

    first_code: int
    codes: int
    first_row: int
    size: int

    def rows_of(self, codes: Numbers) -> tuple[Numbers, Numbers]:
        """The rows in both pools of codes, counted from 0."""
        first = self.first_row + codes % (self.size + 1)
        return first, self.first_row + self.size + 1 + codes % self.size


def pools_of(buckets: Mapping[str, int], first_row: int) -> dict[str, Pools]:
    """The pools of each hashed vocabulary, whose buckets follow one another from `first_row` on; 3 or more each."""
    pools = {}
    room = _CODES // max(1, len(buckets))
    for number, (name, count) in enumerate(buckets.items()):
        size = (count - 1) // 2
        pools[name] = Pools(FIRST_CODE + number * room, min(size * (size + 1), room), first_row, size)
        first_row += count
    return pools


def rows_apart(rows: Tensor, pools: Sequence[Pools]) -> tuple[Tensor, Tensor]:
    """Replace the codes among embedding rows int64 `[...]` by their rows in the first and in the second pool.

    A row that is no code stays in the first tensor; beside it the second one has row 0, the missing one, a zero vector.
    """
    first = rows
    second = torch.zeros_like(rows)
    for each in pools:
        code = rows - each.first_code
        inside = (code >= 0) & (code < each.codes)
        in_first, in_second = each.rows_of(code)
        first = torch.where(inside, in_first, first)
        second = torch.where(inside, in_second, second)
    return first, second
