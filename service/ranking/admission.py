"""Admission control: counts the requests in work of a worker, and refuses requests that would wait too long."""

from math import inf
from time import monotonic
from types import TracebackType

from service.errors import Overloaded

_SMOOTHING = 0.05
_SHORT_SHARE = 0.1  # of the longest wait
_REFUSED_SHARE = 0.25  # of the callers; while more are refused, the short queue stays
_COUNTED = 128  # callers; older ones weigh less
_ALWAYS_ADMITTED = 2  # requests in work, so that the measured means can recover
# The expected waits, as shares of the longest one, above which a ranking is made in the first and the second step of a
# brown-out.
_STEPS_ABOVE = (0.25, 0.5)


class ShortQueue:
    """Decides when the longest allowed wait is cut to a tenth.

    Under steady overload a queue of any length fills up, and then its length only adds to everybody's wait. So a
    refusal shortens the queue for `seconds`. Further refusals extend this time only if they make up a quarter of all
    callers, which is the case under steady overload but not after a single burst.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._refused_at = -inf
        self._callers = 0
        self._refused = 0

    def active(self, now: float) -> bool:
        return now - self._refused_at < self._seconds

    def entered(self) -> None:
        """Count an admitted caller."""
        self._callers += 1
        if self._callers > _COUNTED:
            self._callers //= 2
            self._refused //= 2

    def refused(self, now: float) -> None:
        """Count a refused caller."""
        if not self.active(now):
            self._callers = 0
            self._refused = 0
            self._refused_at = now
        self.entered()
        self._refused += 1
        if self._refused >= _REFUSED_SHARE * self._callers:
            self._refused_at = now


class Admission:
    """Admits requests to a worker: `with admission.enter() as step:` around the computation.

    `step` is 0, or with `brownout` the step of the brown-out in which the request is to be ranked: the longer the
    expected wait, the cheaper the step.

    A request is counted from the time its body has been read until its answer is ready; slow sending or reading by the
    caller does not count.

    A worker scores one ranking after another, so a ranking waits for earlier ones. While a ranking waits for the store,
    the worker computes others; that time is subtracted from the expected wait, so a slow store causes no refusals while
    the processor is idle.
    """

    def __init__(self, limit: int, longest_wait: float, *, brownout: bool = False) -> None:
        self.limit = limit
        self.longest_wait = longest_wait
        self.in_work = 0
        self._brownout = brownout
        self._mean_computed = 0.0  # seconds per ranking
        self._mean_fetched = 0.0
        self._short_queue = ShortQueue(longest_wait)

    @property
    def expected_wait(self) -> float:
        """The predicted wait in seconds of a ranking that enters now."""
        return max(0.0, self.in_work * self._mean_computed - self._mean_fetched)

    def enter(self) -> "Admission":
        """Admit a request until the `with` block ends.

        Raises Overloaded. Two requests are always admitted.
        """
        if self.in_work >= self.limit:
            raise Overloaded(f"{self.limit} requests are in work in this process (FUNNELRANK_MAX_INFLIGHT)")
        if self.in_work >= _ALWAYS_ADMITTED:
            self._check_wait()
        self.in_work += 1
        return self

    def _check_wait(self) -> None:
        now = monotonic()
        short = self._short_queue.active(now)
        wait = self.expected_wait
        if wait > self._allowed_wait(short):
            self._short_queue.refused(now)
            raise Overloaded(
                f"{self.in_work} requests before this one would take {wait:.3f} s (FUNNELRANK_MAX_WAIT_MS)"
            )
        if short:
            self._short_queue.entered()

    def _allowed_wait(self, short: bool) -> float:
        return self.longest_wait * (_SHORT_SHARE if short else 1.0)

    def note(self, computed: float, fetched: float = 0.0) -> None:
        """Update the means with one ranking: its seconds of computing, and its seconds of waiting for the store."""
        self._mean_computed += _SMOOTHING * (computed - self._mean_computed)
        self._mean_fetched += _SMOOTHING * (fetched - self._mean_fetched)

    def __enter__(self) -> int:
        if not self._brownout or self.in_work <= _ALWAYS_ADMITTED:
            return 0
        # The wait that `enter` has just allowed, behind the requests before this one.
        wait = (self.in_work - 1) * self._mean_computed - self._mean_fetched
        allowed = self._allowed_wait(self._short_queue.active(monotonic()))
        return sum(wait > share * allowed for share in _STEPS_ABOVE)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.in_work -= 1
