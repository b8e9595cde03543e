"""Admission control: how many requests a worker has in work, and which are refused because they would wait."""

from math import inf
from time import monotonic
from types import TracebackType

from service.errors import Overloaded

_SMOOTHING = 0.05
_SHORT_SHARE = 0.1  # of the longest wait
_REFUSED_SHARE = 0.25  # of the callers; while more are refused, the short queue stays
_COUNTED = 128  # callers; older ones weigh less


class ShortQueue:
    """Decides when only a tenth of the longest wait is allowed.

    Under steady overload a queue of any length fills, and its length only adds to everybody's wait. So a refusal
    shortens the queue for `seconds`. Further refusals prolong this only while they are a quarter of all callers: under
    steady overload they are, after one burst they are not.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._refused_at = -inf
        self._callers = 0
        self._refused = 0

    def active(self, now: float) -> bool:
        return now - self._refused_at < self._seconds

    def entered(self) -> None:
        """Count a caller who was let in."""
        self._callers += 1
        if self._callers > _COUNTED:
            self._callers //= 2
            self._refused //= 2

    def refused(self, now: float) -> None:
        """Count a caller who was refused."""
        if not self.active(now):
            self._callers = 0
            self._refused = 0
            self._refused_at = now
        self.entered()
        self._refused += 1
        if self._refused >= _REFUSED_SHARE * self._callers:
            self._refused_at = now


class Admission:
    """Admits requests to a worker: `with admission.enter():` around what is computed.

    A place is held from when the body has been read until the answer is made, never while a caller is slow to send or
    to read.

    A worker scores one ranking after another, so a ranking waits for those before it. While it reads the store, the
    worker computes the others, so that time counts against the wait: a slow store refuses nobody while the processor is
    idle.
    """

    def __init__(self, limit: int, longest_wait: float) -> None:
        self.limit = limit
        self.longest_wait = longest_wait
        self.in_work = 0
        self._mean_computed = 0.0  # seconds per ranking
        self._mean_fetched = 0.0
        self._short_queue = ShortQueue(longest_wait)

    @property
    def expected_wait(self) -> float:
        """Seconds that a ranking which enters now waits for its turn."""
        return max(0.0, self.in_work * self._mean_computed - self._mean_fetched)

    def enter(self) -> "Admission":
        """Hold a place until the `with` block ends.

        Raises Overloaded. Two are always admitted, so that the means can recover.
        """
        if self.in_work >= self.limit:
            raise Overloaded(f"{self.limit} requests are in work in this process (FUNNELRANK_MAX_INFLIGHT)")
        if self.in_work > 1:
            self._check_wait()
        self.in_work += 1
        return self

    def _check_wait(self) -> None:
        now = monotonic()
        short = self._short_queue.active(now)
        wait = self.expected_wait
        if wait > self.longest_wait * (_SHORT_SHARE if short else 1.0):
            self._short_queue.refused(now)
            raise Overloaded(
                f"{self.in_work} requests before this one would take {wait:.3f} s (FUNNELRANK_MAX_WAIT_MS)"
            )
        if short:
            self._short_queue.entered()

    def note(self, computed: float, fetched: float = 0.0) -> None:
        """Learn from one ranking: the seconds that it computed, and those that it waited for the store."""
        self._mean_computed += _SMOOTHING * (computed - self._mean_computed)
        self._mean_fetched += _SMOOTHING * (fetched - self._mean_fetched)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.in_work -= 1
