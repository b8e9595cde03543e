"""Keeps the assembled inputs of a limited number of recent requests, for trials of new versions and fusion profiles."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_MAX_REQUESTS = 256
_MAX_CANDIDATES = 20_000


@dataclass(slots=True, eq=False)
class Assembly:
    """The graph's named inputs for one request, with its user, feature schema, candidates and scene.

    `sources` are the candidates' sources, if any has one. `own_features` says whether the caller sent feature values
    of items.
    """

    fingerprint: str
    user_id: str
    inputs: Mapping[str, np.ndarray]
    item_ids: Sequence[str]
    scene: str | None = None
    sources: Sequence[str | None] | None = None
    own_features: bool = False


class RecentRequests:
    """The newest requests, at most 256 with at most 20 000 candidates together."""

    def __init__(self) -> None:
        self._requests: deque[Assembly] = deque()
        self._candidates = 0

    def add(self, assembly: Assembly) -> None:
        """Store a request. The caller must not change its arrays afterwards."""
        self._requests.append(assembly)
        self._candidates += len(assembly.item_ids)
        while len(self._requests) > _MAX_REQUESTS or (self._candidates > _MAX_CANDIDATES and len(self._requests) > 1):
            self._candidates -= len(self._requests.popleft().item_ids)

    def of(self, fingerprint: str) -> list[Assembly]:
        """The requests of one feature schema, oldest first. Threads may call this while others add requests."""
        # A deque that changes while Python code iterates over it raises RuntimeError; copying it is one atomic step.
        return [a for a in self._requests.copy() if a.fingerprint == fingerprint]
