"""Tests the simulation of a worker against the formulas of queueing theory, and the load of shards."""

import numpy as np
import pytest

from loadtest.capacity.figures import Figures
from loadtest.capacity.planning import Assumptions, Demand, plan_of
from loadtest.capacity.simulation import shard_load, simulated, simulation_lines


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_exponential_times_give_the_quantiles_of_one_queue(figures: Figures, utilisation: float) -> None:
    """M/M/1: the time in the system is exponential with the mean s / (1 - u)."""
    quantiles = -np.log1p(-np.linspace(0, 0.9999, 2001)) + 1e-9
    of = figures.model_copy(update={"service_times": tuple(quantiles.tolist()), "floor_ms": 0.0})
    got = simulated(of, 2.0, utilisation * 500, seed=1, arrivals=1_000_000)
    assert got.utilisation == pytest.approx(utilisation)
    mean = 2.0 / (1 - utilisation)
    assert got.p50 == pytest.approx(mean * np.log(2), rel=0.05)
    assert got.p99 == pytest.approx(mean * np.log(100), rel=0.08)


def test_constant_times_wait_half_as_long_on_average(figures: Figures) -> None:
    """M/D/1: nobody waits with probability 1 - u, so that the median ranking at u = 0.4 takes its own time alone."""
    got = simulated(figures, 2.0, 0.4 * 500, seed=1)
    assert got.p50 == pytest.approx(2.0 + figures.floor_ms, abs=1e-6)
    assert simulated(figures, 2.0, 0.9 * 500, seed=1).p99 > 10 * 2.0


def test_a_simulation_repeats_for_a_seed(figures: Figures) -> None:
    assert simulated(figures, 2.0, 300, seed=3) == simulated(figures, 2.0, 300, seed=3)
    assert simulated(figures, 2.0, 300, seed=3) != simulated(figures, 2.0, 300, seed=4)


def test_the_fullest_shard_has_the_hottest_item() -> None:
    even = shard_load(10, 1e6, 0.0, seed=1)
    assert 1 < even.users < 1.02 and 1 < even.items < 1.02
    assert shard_load(10, 1e6, 0.2, seed=1).items == pytest.approx(0.8 * even.items + 2.0)
    assert shard_load(1, 1e6, 0.2, seed=1).items == pytest.approx(1.0)


def test_a_queue_that_grows_without_end_is_called_so(figures: Figures) -> None:
    demand = Demand(1e6, 1e4, 10_000, 200)
    plan = plan_of(figures, demand, Assumptions(utilisation=0.95))
    text = "\n".join(simulation_lines(plan, figures, demand, 1))
    assert "1.3 x the peak" in text and "the queue grows without end" in text
