"""When a call is repeated: attempts, pauses and the time that is left."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from funnelrank_client.errors import FunnelrankError, NoAnswer, Unavailable

_ON_THE_WAY_MS = 5  # left of the deadline for the way of the answer


@dataclass(frozen=True)
class Policy:
    """How often a call is tried.

    A call is repeated after a 503, with the requested pause, and if there is no answer. It is not repeated if the pause
    would exceed the deadline. With `hedge_after_ms`, a ranking without an answer after this time is sent again on
    another connection, and the first answer is used: choose about the 95th percentile. None never does this.
    """

    attempts: int = 3
    first_pause_ms: float = 20.0
    longest_pause_ms: float = 1000.0
    hedge_after_ms: float | None = None
    jitter: Callable[[], float] = field(default=random.random, repr=False)

    def pause_s(self, attempt: int, error: FunnelrankError) -> float | None:
        """The pause before the next attempt; None if there is none. `attempt` counts from 1."""
        if attempt >= self.attempts or not isinstance(error, (NoAnswer, Unavailable)):
            return None
        backoff = min(self.longest_pause_ms, self.first_pause_ms * 2.0 ** (attempt - 1)) / 1000
        # Between half of the pause and the whole pause, so that callers that were refused together do not return
        # together.
        pause = backoff * (0.5 + self.jitter() / 2)
        asked = error.retry_after_s if isinstance(error, Unavailable) else None
        return pause if asked is None else asked + pause


class Deadline:
    """The remaining time of a call."""

    def __init__(self, timeout_ms: float) -> None:
        self._end = time.monotonic() + timeout_ms / 1000

    @property
    def left_s(self) -> float:
        return self._end - time.monotonic()

    @property
    def for_service_ms(self) -> int:
        """What the service may use, at least 1 ms: the rest is for the way of the answer."""
        return max(1, int(self.left_s * 1000) - _ON_THE_WAY_MS)
