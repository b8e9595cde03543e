"""Phases of load: arrival times that do not depend on answers, and the phases of a run or of a search for the limit."""

import math
from collections.abc import Generator, Iterator

import numpy as np

from loadtest.checks.measurements import Measurements
from loadtest.options import Plan

# The search stops when the lowest failed rate is within 8 % of the highest rate that held; the noise is about as large.
PRECISION = 1.08


class Phase:
    """A phase of constant rate.

    Arrivals are a Poisson process drawn before the phase begins, which makes the load open loop: the n-th request is
    due at its own time, whether or not earlier ones were answered. All times are seconds of one monotonic clock.
    """

    def __init__(self, name: str, rate: float, duration_s: float, drain_s: float, rng: np.random.Generator) -> None:
        self.name = name
        self.rate = rate
        self.duration_s = duration_s
        self.drain_s = drain_s
        count = max(int(rng.poisson(rate * duration_s)), 1)
        self.offsets: list[float] = np.sort(rng.uniform(0.0, duration_s, count)).tolist()
        self.measurements = Measurements()
        self.taken = 0
        self.finished = 0
        self.began_at = math.inf
        self.closed = False

    def begin(self, now: float) -> None:
        self.began_at = now

    def take(self) -> float | None:
        """Return when the next request is due, to one caller only; None if none is left or the phase is closed."""
        if self.closed or math.isinf(self.began_at) or self.taken == len(self.offsets):
            return None
        self.taken += 1
        return self.began_at + self.offsets[self.taken - 1]

    def is_over(self, now: float) -> bool:
        """Whether every request was answered, or the time for late ones has passed."""
        end = self.began_at + self.duration_s
        return now >= end and (self.finished == len(self.offsets) or now >= end + self.drain_s)

    def close(self) -> None:
        """End the phase: requests that were due but not sent or not answered count as failures."""
        self.closed = True
        self.measurements.record_unanswered(
            len(self.offsets) - self.taken, "never sent: all users were waiting for answers"
        )
        self.measurements.record_unanswered(self.taken - self.finished, "not answered by the end of the phase")


def steady_load(plan: Plan, rng: np.random.Generator) -> Iterator[Phase]:
    """A warm-up, then the requested rate."""
    yield Phase("/rank (warm-up)", plan.rate, plan.warmup_s, plan.drain_s, rng)
    yield Phase("/rank", plan.rate, plan.duration_s, plan.drain_s, rng)


def stepped_load(plan: Plan, rng: np.random.Generator) -> Iterator[Phase]:
    """A warm-up, then steps towards the highest rate that holds."""
    yield Phase("/rank (warm-up)", plan.rate, plan.warmup_s, plan.drain_s, rng)
    search = search_rates(plan.rate, plan.max_steps)
    rate = next(search)
    while True:
        phase = Phase(f"/rank at {rate:.0f}/s", rate, plan.step_s, plan.drain_s, rng)
        yield phase
        try:
            rate = search.send(phase.measurements.holds(plan.p99_limit_ms))
        except StopIteration:
            return


def search_rates(start: float, max_steps: int) -> Generator[float, bool, None]:
    """Yield rates to try, and receive whether each held.

    Doubles or halves the rate until both a held and a failed rate are known, then bisects.
    """
    held = 0.0
    failed = math.inf
    rate = start
    for _ in range(max_steps):
        if (yield rate):
            held = max(held, rate)
        else:
            failed = min(failed, rate)
        if math.isinf(failed):
            rate = held * 2
        elif held == 0.0:
            rate = failed / 2
        elif failed / held <= PRECISION:
            return
        else:
            rate = math.sqrt(held * failed)
