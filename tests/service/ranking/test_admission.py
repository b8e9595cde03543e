"""Tests admission control: a request that would wait too long is refused, and one burst does not keep the
queue short.
"""

import contextlib

import pytest

from service.errors import Overloaded
from service.ranking import admission as admission_control
from service.ranking.admission import Admission, ShortQueue


def admission_of(longest_wait: float, computed: float, fetched: float = 0.0, limit: int = 64) -> Admission:
    admission = Admission(limit, longest_wait)
    for _ in range(200):
        admission.note(computed, fetched)
    return admission


def test_what_would_wait_too_long_is_refused_and_two_are_always_admitted() -> None:
    admission = admission_of(0.05, 0.01)
    for in_work in (0, 1, 5):
        admission.by_step[0] = in_work
        admission.enter()
    admission.by_step[0] = 6
    with pytest.raises(Overloaded, match="FUNNELRANK_MAX_WAIT_MS"):
        admission.enter()
    admission.note(1000.0)
    admission.by_step[0] = 1
    admission.enter()


def test_a_burst_has_the_whole_wait_and_after_a_refusal_a_tenth_until_nothing_was_refused_for_that_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(admission_control, "monotonic", lambda: now)
    admission = admission_of(0.2, 0.008)
    admission.by_step[0] = 24
    admission.enter()
    admission.by_step[0] = 26
    with pytest.raises(Overloaded):
        admission.enter()
    for in_work, admitted in ((3, False), (2, True), (24, False)):
        admission.by_step[0] = in_work
        if admitted:
            admission.enter()
        else:
            with pytest.raises(Overloaded):
                admission.enter()
    now += 0.21
    admission.by_step[0] = 24
    admission.enter()


def test_a_place_is_free_again_after_the_block_also_after_an_error() -> None:
    admission = Admission(1, 1.0)
    for error in (None, ZeroDivisionError):
        with contextlib.suppress(ZeroDivisionError), admission.enter():
            with pytest.raises(Overloaded, match="FUNNELRANK_MAX_INFLIGHT"):
                admission.enter()
            if error:
                raise error
        assert admission.in_work == 0
    with admission.enter():
        assert admission.in_work == 1
    assert admission.in_work == 0


def test_rankings_that_wait_for_a_slow_store_are_not_taken_for_a_queue() -> None:
    """150 rankings a second of 2.5 ms each, with a store 50 ms away: 8 in work at once, a third of the processor."""
    admission = admission_of(0.25, 0.0025, fetched=0.05)
    admission.by_step[0] = 19
    assert admission.expected_wait == 0
    admission.by_step[0] = 60
    assert admission.expected_wait == pytest.approx(60 * 0.0025 - 0.05, rel=1e-3)


@pytest.mark.parametrize(("refused_of_ten", "stays_short"), [(1, False), (2, False), (4, True), (7, True)])
def test_the_queue_stays_short_only_while_many_are_refused(refused_of_ten: int, stays_short: bool) -> None:
    """Callers arrive every 10 ms after a burst of 30 refusals."""
    queue = ShortQueue(0.25)
    for _ in range(30):
        queue.refused(0.0)
    now = 0.0
    for caller in range(1000):
        now = caller / 100
        if not queue.active(now):
            break
        if caller % 10 < refused_of_ten:
            queue.refused(now)
        else:
            queue.entered()
    assert queue.active(now) is stays_short


@pytest.mark.parametrize(
    ("in_work", "step"), [(0, 0), (1, 0), (3, 0), (4, 1), (6, 1), (7, 2), (9, 2), (11, 3), (19, 3)]
)
def test_the_longer_the_expected_wait_the_cheaper_the_step_of_a_brownout(in_work: int, step: int) -> None:
    for brownout in (False, True):
        admission = brownout_admission() if brownout else admission_of(0.2, 0.01)
        admission.by_step[0] = in_work
        with admission.enter() as entered:
            assert entered.choose_step(60) == (step if brownout else 0)
            assert admission.by_step[step if brownout else 0] == 1 + (in_work if step == 0 or not brownout else 0)
        assert sum(admission.by_step) == in_work


def brownout_admission(limit: int = 64) -> Admission:
    """One whose full rankings cost 10 ms each and whose longest wait is 200 ms."""
    admission = Admission(limit, 0.2, brownout=True)
    for _ in range(200):
        admission.note(0.01)
    return admission


def test_the_steps_follow_the_callers_deadline_if_it_is_shorter_than_the_longest_wait() -> None:
    admission = brownout_admission()
    admission.by_step[0] = 3
    for seconds_left, step in ((60, 0), (0.2, 0), (0.1, 1), (0.07, 2), (0.05, 3), (0.0, 3)):
        with admission.enter() as entered:
            assert entered.choose_step(seconds_left) == step


def test_the_steps_follow_the_limit_of_requests_in_work_if_it_is_reached_before_the_longest_wait() -> None:
    admission = brownout_admission(limit=10)
    for in_work, step in ((1, 0), (2, 1), (3, 1), (4, 2), (6, 3), (9, 3)):
        admission.by_step[0] = in_work
        with admission.enter() as entered:
            assert entered.choose_step(60) == step


def test_a_slow_store_causes_no_brownout_while_the_processor_is_idle() -> None:
    admission = Admission(64, 0.25, brownout=True)
    for _ in range(200):
        admission.note(0.0025, 0.05)
    admission.by_step[0] = 19
    with admission.enter() as entered:
        assert entered.choose_step(60) == 0


def test_each_requests_wait_is_counted_at_the_cost_of_its_step() -> None:
    admission = brownout_admission()
    # A step that was never measured costs as much as the one before.
    admission.by_step[:] = [2, 0, 5]
    assert admission.expected_wait == pytest.approx(0.07, rel=1e-3)
    admission.note(0.002, step=2)
    assert admission.expected_wait == pytest.approx(0.03, rel=1e-3)
    admission.by_step[1] = 1
    assert admission.expected_wait == pytest.approx(0.04, rel=1e-3)


def test_time_beside_the_computing_counts_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 0.0
    monkeypatch.setattr(admission_control, "thread_time", lambda: seconds)
    for spent, cost in ((0.0015, 0.0015), (0.0005, 0.001), (7.0, 0.002)):
        seconds = 0.0
        admission = Admission(64, 0.25)
        for _ in range(300):
            seconds += spent
            admission.note(0.001)
        admission.by_step[0] = 10
        assert admission.expected_wait == pytest.approx(10 * cost, rel=1e-3)


def test_in_a_brownout_the_queue_is_shortened_only_once_a_quarter_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(admission_control, "monotonic", lambda: now)
    admission = brownout_admission()

    def refuse() -> None:
        admission.by_step[0] = 21
        with pytest.raises(Overloaded, match="FUNNELRANK_MAX_WAIT_MS"):
            admission.enter()

    def admit(step: int) -> None:
        with admission.enter() as entered:
            assert entered.choose_step(60) == step

    # One of four is refused, and still the whole wait is allowed.
    admission.by_step[0] = 19
    for _ in range(4):
        admit(3)
    refuse()
    admission.by_step[0] = 19
    admit(3)
    # Then a quarter: a tenth of the wait is allowed, and all rankings that wait are the cheapest.
    refuse()
    admission.by_step[0] = 3
    with pytest.raises(Overloaded):
        admission.enter()
    admission.by_step[0] = 2
    admit(3)
    now += 0.21
    admit(0)


def test_a_request_beyond_the_longest_wait_is_refused_with_a_brownout_too() -> None:
    admission = brownout_admission()
    admission.by_step[0] = 21
    with pytest.raises(Overloaded, match="FUNNELRANK_MAX_WAIT_MS"):
        admission.enter()
    admission.by_step[0] = 0
    with admission.enter() as entered:
        assert entered.choose_step(60) == 0
