"""Keeps the assembled inputs of a limited number of recent requests, for trials of new versions and fusion profiles."""

from collections import deque
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.rollout.rollout import DEFAULT_LINE

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
    """The newest requests of each line, at most 256 with at most 20 000 candidates together."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Assembly]] = {}
        self._candidates: dict[str, int] = {}

    def add(self, assembly: Assembly, line: str = DEFAULT_LINE) -> None:
        """Store a request of a line. The caller must not change its arrays afterwards."""
        requests = self._lines.setdefault(line, deque())
        candidates = self._candidates.get(line, 0) + len(assembly.item_ids)
        requests.append(assembly)
        while len(requests) > _MAX_REQUESTS or (candidates > _MAX_CANDIDATES and len(requests) > 1):
            candidates -= len(requests.popleft().item_ids)
        self._candidates[line] = candidates

    def of(self, fingerprint: str, line: str = DEFAULT_LINE) -> list[Assembly]:
        """A line's requests of one feature schema, oldest first. Threads may call this while others add requests."""
        # A deque that changes while Python code iterates over it raises RuntimeError; copying it is one atomic step.
        return [a for a in self._lines.get(line, deque()).copy() if a.fingerprint == fingerprint]

    def size(self) -> tuple[int, int]:
        """The numbers of requests and of their candidates, of all lines together."""
        return sum(map(len, self._lines.values())), sum(self._candidates.values())

    def keep(self, lines: Container[str]) -> None:
        """Drop the requests of other lines."""
        for line in [line for line in self._lines if line not in lines]:
            del self._lines[line]
            self._candidates.pop(line, None)
