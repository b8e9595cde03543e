"""Simulates the serving tier: how long rankings wait for a worker, and how uneven the shards of Redis are loaded.

A worker is one queue in the order of arrival, because it ranks in its event loop. Connections are spread over workers
by the kernel, so each worker has a Poisson process of its own. Waiting times follow Lindley's recursion.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from loadtest.capacity.figures import Figures
from loadtest.capacity.planning import Demand, ServicePlan

_ARRIVALS = 200_000
_SETTLING = 0.1  # the share of the arrivals that are left out at the start
_KEYS = 1_000_000


class SimulatedLatency(NamedTuple):
    """Milliseconds from the arrival of a ranking to its answer, at some quantiles, and the load that they belong to."""

    utilisation: float
    p50: float
    p99: float
    p999: float


class ShardLoad(NamedTuple):
    """The load of the fullest shard against the mean one: by users, and by the item rows that caches lack."""

    users: float
    items: float


def simulated(
    figures: Figures, ranking_ms: float, rankings_per_s: float, seed: int, arrivals: int = _ARRIVALS
) -> SimulatedLatency:
    """Rank `arrivals` requests in one worker, of which each takes `ranking_ms` of CPU on average.

    The spread of the times is the measured one.
    """
    rng = np.random.default_rng(seed)
    quantiles = np.array(figures.service_times)
    drawn = np.interp(rng.random(arrivals), np.linspace(0, 1, len(quantiles)), quantiles)
    service_ms = drawn * (ranking_ms / np.trapezoid(quantiles, dx=1 / (len(quantiles) - 1)))
    gaps_ms = rng.exponential(1000 / rankings_per_s, arrivals)
    # w(n + 1) = max(0, w(n) + s(n) - a(n + 1)), in one pass: a random walk less its smallest value so far.
    walk = np.concatenate([[0.0], np.cumsum(service_ms[:-1] - gaps_ms[1:])])
    waited_ms = walk - np.minimum.accumulate(walk)
    total_ms = (waited_ms + service_ms + figures.floor_ms)[int(_SETTLING * arrivals) :]
    p50, p99, p999 = np.quantile(total_ms, [0.5, 0.99, 0.999])
    return SimulatedLatency(rankings_per_s * ranking_ms / 1000, float(p50), float(p99), float(p999))


def shard_load(shards: int, users: float, hottest_item: float, seed: int) -> ShardLoad:
    """Draw a million rankings of users that are equally active, and a million reads of items.

    `hottest_item`: the largest share of one item among the reads. No other item has more, so the fullest shard has that
    share beyond an even spread.
    """
    rng = np.random.default_rng(seed)
    of_user = np.bincount(rng.integers(shards, size=int(min(users, _KEYS))), minlength=shards)
    even = np.bincount(rng.integers(shards, size=_KEYS), minlength=shards)
    items = even.max() * (1 - hottest_item) + hottest_item * _KEYS
    return ShardLoad(float(of_user.max() / of_user.mean()), float(items / even.mean()))


def simulation_lines(plan: ServicePlan, figures: Figures, demand: Demand, seed: int) -> Iterator[str]:
    """The simulation of a plan for the terminal: latencies at the planned load and around it, and uneven shards."""
    yield "\nsimulated, one of the workers:"
    planned = demand.qps / plan.workers
    for name, rate in (("half the peak", planned / 2), ("the peak", planned), ("1.3 x the peak", 1.3 * planned)):
        of = simulated(figures, plan.ranking_ms, rate, seed)
        if of.utilisation >= 1:
            yield f"  {name:<16}{of.utilisation:>6.0%} of a core: the queue grows without end"
            continue
        times = f"p50 {of.p50:7.2f}  p99 {of.p99:7.2f}  p99.9 {of.p999:7.2f} ms"
        yield f"  {name:<16}{of.utilisation:>6.0%} of a core  {times}"
    load = shard_load(plan.shards, demand.users, plan.hottest_item, seed)
    yield f"  the fullest shard has {load.users:.2f} x the mean load of users, {load.items:.2f} x that of item rows"
