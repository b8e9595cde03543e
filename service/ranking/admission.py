"""Admission control: counts the requests in work of a worker, and refuses requests that would wait too long."""

from math import inf
from time import monotonic, thread_time
from types import TracebackType

from service.errors import Overloaded

_SMOOTHING = 0.05
_SHORT_SHARE = 0.1  # of the longest wait
_REFUSED_SHARE = 0.25  # of the callers; while more are refused, the short queue stays
_COUNTED = 128  # callers; older ones weigh less
_ALWAYS_ADMITTED = 2  # requests in work, so that the measured means can recover
# The expected waits, as shares of the longest one, above which a ranking is made in the first, the second and the third
# step of a brown-out.
_STEPS_ABOVE = (1 / 6, 1 / 3, 1 / 2)
_STEPS = len(_STEPS_ABOVE) + 1
# The most that counts for a ranking beside its own computing. What takes longer is other work, such as loading a model.
_MOST_OVERHEAD = 0.001  # seconds


class ShortQueue:
    """Decides when the longest allowed wait is cut to a tenth.

    Under steady overload a queue of any length fills up, and then its length only adds to everybody's wait. So a
    refusal shortens the queue for `seconds`. Further refusals extend this time only if they make up a quarter of all
    callers, which is the case under steady overload but not after a single burst.

    If `patient`, the queue is shortened only once a quarter of the callers are refused. Cheaper rankings may then end
    the overload, and a short queue would refuse those for which there is time.
    """

    def __init__(self, seconds: float, *, patient: bool = False) -> None:
        self._seconds = seconds
        self._patient = patient
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
        if not self._patient and not self.active(now):
            self._callers = 0
            self._refused = 0
            self._refused_at = now
        self.entered()
        self._refused += 1
        if self._refused >= _REFUSED_SHARE * self._callers:
            self._refused_at = now


class RankingCosts:
    """Running means of what a ranking costs the worker, in seconds: by the step of a brown-out, 0 for a full ranking.

    The computing of a step is measured by itself: the requests in work are a mixture of steps that changes faster than
    a mean over all rankings. `overhead` is the processor time per ranking beside its computing: reading and writing
    HTTP, the store's replies, refusals.
    """

    def __init__(self) -> None:
        self._computed: list[float | None] = [0.0] + [None] * (_STEPS - 1)
        self._overhead = 0.0
        self._thread_seconds = thread_time()
        self.fetched = 0.0

    def of_step(self, step: int) -> float:
        """The mean cost of a ranking in this step. A step that was never measured costs as much as the one before."""
        while (computed := self._computed[step]) is None:
            step -= 1
        return computed + self._overhead

    def note(self, step: int, computed: float, fetched: float) -> None:
        """Update the means with one ranking: its seconds of computing, and its seconds of waiting for the store."""
        mean = self._computed[step]
        self._computed[step] = computed if mean is None else mean + _SMOOTHING * (computed - mean)
        self.fetched += _SMOOTHING * (fetched - self.fetched)
        # All processor time since the previous ranking was answered.
        before = self._thread_seconds
        self._thread_seconds = thread_time()
        overhead = min(max(0.0, self._thread_seconds - before - computed), _MOST_OVERHEAD)
        self._overhead += _SMOOTHING * (overhead - self._overhead)


class Admission:
    """Admits requests to a worker: `with admission.enter() as entered:` around the computation.

    A request is counted from the time its body has been read until its answer is ready; slow sending or reading by the
    caller does not count.

    A worker scores one ranking after another, so a ranking waits for earlier ones. While a ranking waits for the store,
    the worker computes others; that time is subtracted from the expected wait, so a slow store causes no refusals while
    the processor is idle.

    `by_step` has the number of requests in work by the step of the brown-out in which they are ranked. Without
    `brownout` all are in step 0.
    """

    def __init__(self, limit: int, longest_wait: float, *, brownout: bool = False) -> None:
        self.limit = limit
        self.longest_wait = longest_wait
        self.by_step = [0] * _STEPS
        self.brownout = brownout
        self._costs = RankingCosts()
        self._short_queue = ShortQueue(longest_wait, patient=brownout)

    @property
    def in_work(self) -> int:
        """The number of requests in work."""
        return sum(self.by_step)

    @property
    def expected_wait(self) -> float:
        """The predicted wait in seconds of a ranking that enters now."""
        return max(0.0, self._work() - self._costs.fetched)

    def _work(self) -> float:
        """The seconds that all requests in work cost."""
        return sum(count * self._costs.of_step(step) for step, count in enumerate(self.by_step) if count)

    def enter(self) -> "Entered":
        """Admit a request until the `with` block ends.

        Raises Overloaded. Two requests are always admitted.
        """
        in_work = self.in_work
        if in_work >= self.limit:
            raise Overloaded(f"{self.limit} requests are in work in this process (FUNNELRANK_MAX_INFLIGHT)")
        if in_work >= _ALWAYS_ADMITTED:
            self._check_wait(in_work)
        return Entered(self)

    def _check_wait(self, in_work: int) -> None:
        now = monotonic()
        short = self._short_queue.active(now)
        wait = self.expected_wait
        if wait > self.longest_wait * (_SHORT_SHARE if short else 1.0):
            self._short_queue.refused(now)
            raise Overloaded(f"{in_work} requests before this one would take {wait:.3f} s (FUNNELRANK_MAX_WAIT_MS)")
        if short or self.brownout:
            self._short_queue.entered()

    def step_behind(self, in_work: int, seconds_left: float) -> int:
        """Return the step for a ranking behind `in_work` others, whose caller waits `seconds_left`: the longer the
        expected wait, the cheaper.

        While the queue is short because the cheapest rankings cannot end the overload either, all are the cheapest.
        """
        if in_work < _ALWAYS_ADMITTED:
            return 0
        if self._short_queue.active(monotonic()):
            return _STEPS - 1
        work = self._work()
        fetched = self._costs.fetched
        longest = min(self.longest_wait, seconds_left)
        # The wait with which the number of requests in work would reach its limit.
        at_limit = self.limit * work / in_work - fetched
        if at_limit > 0:
            longest = min(longest, at_limit)
        return sum(work - fetched > share * longest for share in _STEPS_ABOVE)

    def note(self, computed: float, fetched: float = 0.0, step: int = 0) -> None:
        """Update the means with one ranking: its seconds of computing, and its seconds of waiting for the store."""
        self._costs.note(step, computed, fetched)


class Entered:
    """One admitted request; it leaves when the `with` block ends."""

    __slots__ = ("_admission", "_step")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._step = 0
        admission.by_step[0] += 1

    def choose_step(self, seconds_left: float) -> int:
        """Return the step of the brown-out in which to rank, and count the request in it."""
        admission = self._admission
        if admission.brownout:
            admission.by_step[self._step] -= 1
            self._step = admission.step_behind(admission.in_work, seconds_left)
            admission.by_step[self._step] += 1
        return self._step

    def note(self, computed: float, fetched: float) -> None:
        """Note the cost of the ranking, in seconds."""
        self._admission.note(computed, fetched, self._step)

    def __enter__(self) -> "Entered":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._admission.by_step[self._step] -= 1
