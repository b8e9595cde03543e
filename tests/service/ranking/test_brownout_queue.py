"""Simulates the queue of one worker: at 1.8 times its capacity a brown-out gets an answer to nearly everybody in time.

The simulation has no real time in it, so that it gives the same figures on any machine.
"""

import random
from collections import Counter, deque

import pytest

from service.errors import Overloaded
from service.ranking import admission as admission_control
from service.ranking.admission import Admission

# Processor seconds of a ranking of 200 candidates and 50 behaviours by step: 0.6 ms of them are spent without a model.
COSTS = (0.00165, 0.0012, 0.00085, 0.00075)
# Those of a pair whose second step is not cheap enough: it ends an overload of 1.55 times the capacity at most.
DEAR_COSTS = (0.00165, 0.00135, 0.00106, 0.00075)
FULL = COSTS[0]
CHEAPEST = COSTS[3]
BEFORE_SCORING = 0.00035  # of these seconds, before the ranking waits for its turn
UNSEEN = 0.0004  # of these seconds, outside the stages that a ranking measures
REFUSING = 0.00015
SECONDS = 15.0
COUNTED_FROM = 3.0


class Clock:
    """The time, and the processor time that the worker has used."""

    def __init__(self) -> None:
        self.now = 0.0
        self.used = 0.0

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.used += seconds


def arrivals(rate: float, seed: int) -> list[float]:
    """Times of a Poisson process of `rate` per second; half of the capacity in the first second."""
    rng = random.Random(seed)
    times = [0.0]
    while times[-1] < SECONDS:
        times.append(times[-1] + rng.expovariate(rate if times[-1] > 1 else 0.5 / FULL))
    return times


def simulate(
    clock: Clock, admission: Admission, times: list[float], deadline: float, costs: tuple[float, ...] = COSTS
) -> Counter[str]:
    """Count the callers: `in time`, `late`, `refused`, and `step N` by the step of their ranking.

    The worker reads all requests that have arrived before it scores the next ranking, in the order of arrival.
    """
    counts: Counter[str] = Counter()
    ahead = deque(times)
    waiting: deque[tuple[float, admission_control.Entered, int]] = deque()
    while ahead or waiting:
        if not waiting:
            clock.now = max(clock.now, ahead[0])
        while ahead and ahead[0] <= clock.now:
            arrived = ahead.popleft()
            try:
                entered = admission.enter()
            except Overloaded:
                clock.work(REFUSING)
                counts["refused"] += arrived > COUNTED_FROM
                continue
            waiting.append((arrived, entered, entered.choose_step(deadline - (clock.now - arrived))))
            clock.work(BEFORE_SCORING)
        if waiting:
            arrived, entered, step = waiting.popleft()
            in_time = clock.now <= arrived + deadline
            with entered:
                if in_time:
                    clock.work(costs[step] - BEFORE_SCORING)
                    entered.note(costs[step] - UNSEEN, BEFORE_SCORING)
                    in_time = clock.now <= arrived + deadline
            if arrived > COUNTED_FROM:
                counts["in time" if in_time else "late"] += 1
                counts[f"step {step}"] += 1
    return counts


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(admission_control, "monotonic", lambda: clock.now)
    monkeypatch.setattr(admission_control, "thread_time", lambda: clock.used)
    return clock


def share_in_time(counts: Counter[str]) -> float:
    return counts["in time"] / (counts["in time"] + counts["late"] + counts["refused"])


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("limit", "longest_wait", "deadline"),
    [
        pytest.param(10_000, 0.1, 0.4, id="the longest wait bounds the queue"),
        pytest.param(64, 0.25, 1.0, id="the requests in work bound the queue: the default settings"),
        pytest.param(10_000, 0.25, 0.15, id="the deadline is shorter than the longest wait"),
        pytest.param(10_000, 0.1, 0.1, id="the deadline is the longest wait"),
    ],
)
def test_at_most_one_in_a_hundred_callers_gets_no_answer_in_time_at_1_8_times_the_capacity(
    clock: Clock, limit: int, longest_wait: float, deadline: float, seed: int
) -> None:
    times = arrivals(1.8 / FULL, seed)
    with_it = simulate(clock, Admission(limit, longest_wait, brownout=True), times, deadline)
    clock.now = clock.used = 0.0
    without = simulate(clock, Admission(limit, longest_wait), times, deadline)
    assert share_in_time(with_it) >= 0.99
    assert share_in_time(without) < 0.7
    assert with_it["step 2"] > with_it["step 1"] > with_it["step 0"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_small_version_alone_answers_what_two_passes_cannot(clock: Clock, seed: int) -> None:
    times = arrivals(1.8 / FULL, seed)
    with_it = simulate(clock, Admission(64, 0.25, brownout=True), times, 1.0, DEAR_COSTS)
    assert share_in_time(with_it) >= 0.99
    assert with_it["step 3"] > with_it["step 1"]
    # Without the third step, its rankings are made in two passes.
    clock.now = clock.used = 0.0
    two_steps = (*DEAR_COSTS[:3], DEAR_COSTS[2])
    assert share_in_time(simulate(clock, Admission(64, 0.25, brownout=True), times, 1.0, two_steps)) < 0.95


def test_far_below_the_capacity_nothing_is_reduced(clock: Clock) -> None:
    counts = simulate(clock, Admission(64, 0.25, brownout=True), arrivals(0.7 / FULL, 1), 1.0)
    assert share_in_time(counts) == 1
    assert counts["step 0"] >= 0.999 * counts["in time"]


def test_beyond_what_the_cheapest_step_can_answer_all_its_capacity_is_used(clock: Clock) -> None:
    for times in (2.2, 3.0):
        clock.now = clock.used = 0.0
        counts = simulate(clock, Admission(10_000, 0.1, brownout=True), arrivals(times / FULL, 1), 0.4)
        callers = counts["in time"] + counts["late"] + counts["refused"]
        # Answers cost CHEAPEST and refusals REFUSING: all callers together cost what the worker has.
        possible = (1 / CHEAPEST - REFUSING / CHEAPEST * times / FULL) / (1 - REFUSING / CHEAPEST)
        assert counts["in time"] / callers >= 0.93 * possible / (times / FULL)
        assert counts["late"] == 0
