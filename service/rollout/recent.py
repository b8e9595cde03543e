"""Owns the memory of recent requests: their assembled inputs, bounded, for a new version to be tried on before it takes traffic."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_MAX_REQUESTS = 256
_MAX_CANDIDATES = 20_000


@dataclass(slots=True, eq=False)
class Assembly:
    """The graph inputs of one answered request, of a feature schema, for `candidates` candidates."""

    fingerprint: str
    inputs: Mapping[str, np.ndarray]
    candidates: int


class Recent:
    """The newest requests, at most 256 and at most 20 000 candidates."""

    def __init__(self) -> None:
        self._kept: deque[Assembly] = deque()
        self._candidates = 0

    def note(self, assembly: Assembly) -> None:
        """Remember a request; the arrays are kept, so nobody may write into them."""
        self._kept.append(assembly)
        self._candidates += assembly.candidates
        while len(self._kept) > _MAX_REQUESTS or (self._candidates > _MAX_CANDIDATES and len(self._kept) > 1):
            self._candidates -= self._kept.popleft().candidates

    def of(self, fingerprint: str) -> list[Assembly]:
        """Those of one feature schema, oldest first."""
        return [a for a in self._kept if a.fingerprint == fingerprint]
