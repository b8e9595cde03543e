"""Tests the schedule of a load and the search for the limit.

The schedule is fixed before the run, its requests are shared without overlap, and every request is counted.
"""

import numpy as np
import pytest

from loadtest.checks.answers import Judgement
from loadtest.checks.measurements import Measurements, percentile
from loadtest.phases import PRECISION, Phase, search_rates


def phase(rate: float = 100.0) -> Phase:
    made = Phase("/rank", rate, 10.0, 2.0, np.random.default_rng(3))
    made.begin(1000.0)
    return made


def test_arrivals_have_the_rate_asked_for_and_the_spread_of_a_poisson_process() -> None:
    gaps = np.diff(phase().offsets)
    assert len(gaps) == pytest.approx(1000, rel=0.1)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.15)


def test_each_arrival_is_given_out_once_in_order_and_without_regard_to_answers() -> None:
    load = phase()
    taken = [load.take() for _ in load.offsets]
    assert taken == [1000.0 + offset for offset in load.offsets]
    assert load.take() is None


def test_a_phase_lasts_until_its_answers_are_in_or_the_drain_is_over() -> None:
    load = phase()
    assert not load.is_over(1009.9)
    assert not load.is_over(1011.0)
    assert load.is_over(1012.0)
    load.finished = len(load.offsets)
    assert load.is_over(1010.0)


def test_what_was_not_sent_or_not_answered_has_failed() -> None:
    load = phase()
    for _ in range(10):
        load.take()
    load.finished = 7
    load.close()
    assert load.measurements.failures == {
        "never sent: all users were waiting for answers": len(load.offsets) - 10,
        "not answered by the end of the phase": 3,
    }
    assert load.take() is None


@pytest.mark.parametrize("capacity", [3.0, 50.0, 71.0, 1234.0])
def test_the_search_closes_in_on_the_capacity_from_below(capacity: float) -> None:
    search = search_rates(50.0, 30)
    held = 0.0
    rate = next(search)
    while True:
        held = max(held, rate if rate <= capacity else 0.0)
        try:
            rate = search.send(rate <= capacity)
        except StopIteration:
            break
    assert capacity / PRECISION <= held <= capacity


def test_the_search_ends_after_its_last_step_even_if_nothing_ever_fails() -> None:
    search = search_rates(1.0, 4)
    assert [next(search), *(search.send(True) for _ in range(3))] == [1.0, 2.0, 4.0, 8.0]
    with pytest.raises(StopIteration):
        search.send(True)


def test_percentiles_are_values_that_were_measured() -> None:
    assert [percentile(range(1, 101), share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert percentile([7.0], 0.99) == 7.0


def test_a_load_holds_only_without_failures_and_within_the_limit() -> None:
    phase_measurements = Measurements()
    assert not phase_measurements.holds(50.0), "nothing answered is nothing held"
    phase_measurements.record(Judgement(None, "m/1"), 40.0, 30.0)
    assert phase_measurements.holds(50.0)
    assert not phase_measurements.holds(39.0)
    phase_measurements.record(Judgement("scores do not descend"), 1.0, 1.0)
    assert not phase_measurements.holds(50.0)
