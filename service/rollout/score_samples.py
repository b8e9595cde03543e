"""Owns rolling samples of task scores: enough of them to compare two versions' distributions, never more."""

from collections.abc import Mapping, Sequence

import numpy as np

_KEPT = 4000
_PER_REQUEST = 16


class Samples:
    """The newest task scores of one side, `[tasks, n]`, a few evenly spread candidates of every request."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        self._scores = np.empty((len(tasks), _KEPT), dtype=np.float32)
        self._seen = 0

    @staticmethod
    def places(candidates: int) -> np.ndarray:
        """Which candidates of a request are taken, so that two sides can take the same."""
        return np.linspace(0, candidates - 1, min(candidates, _PER_REQUEST)).astype(np.int64)

    def note(self, scores: np.ndarray) -> None:
        """Take up task scores `[tasks, C]`."""
        taken = scores[:, self.places(scores.shape[1])]
        self._scores[:, (self._seen + np.arange(taken.shape[1])) % _KEPT] = taken
        self._seen += taken.shape[1]

    def __len__(self) -> int:
        return min(self._seen, _KEPT)

    def by_task(self) -> Mapping[str, np.ndarray]:
        """Finite scores by task."""
        found = self._scores[:, : len(self)]
        return {task: row[np.isfinite(row)] for task, row in zip(self.tasks, found, strict=True)}
