"""Says which impressions of a batch a process computes: those of its own rows of the training part."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shard:
    """The rows from `begin` to `end` of a part: the ones that one of several processes reads.

    All processes draw the same batches, and each computes the impressions of a batch that lie in its shard. So a run
    trains on the same batches whatever its number of processes is, and a process reads no rows of the others.
    """

    begin: int
    end: int

    @classmethod
    def of(cls, rows: int, number: int, count: int) -> "Shard":
        """The shard of process `number` of `count` over `rows` rows; sizes differ by one row at most."""
        return cls(rows * number // count, rows * (number + 1) // count)

    def own(self, picked: np.ndarray, lists: np.ndarray | None = None) -> np.ndarray:
        """The impressions of a batch that lie in the shard; `picked` int64 `[B]`, ascending.

        With `lists` `[B]`, the list of each impression, a list stays whole: it belongs to the shard of its first
        impression.
        """
        place = picked
        if lists is not None:
            _, first, list_of = np.unique(lists, return_index=True, return_inverse=True)
            place = picked[first][list_of]
        return picked[(place >= self.begin) & (place < self.end)]
