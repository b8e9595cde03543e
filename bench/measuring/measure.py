"""Measures a cost: contenders take turns in several rounds; the lower quartile of each contender's rounds is used."""

from collections.abc import Callable, Mapping

from bench.inputs.workload import RequestSet
from bench.measuring.driver import Driver
from bench.measuring.servers import Server

Contender = Callable[[int], float]
CONNECTIONS = 4
_WARM_REQUESTS = 40
_FEWEST = 60
_MOST = 3000


def over_http(driver: Driver, server: Server, load: RequestSet) -> Contender:
    """CPU seconds that a server's processes use for a number of requests."""

    def cost(requests: int) -> float:
        before = server.cpu_seconds()
        driver.drive(server.port, "/rank", load.bodies, requests, CONNECTIONS)
        return server.cpu_seconds() - before

    return cost


def in_turn(contenders: Mapping[str, Contender], rounds: int, round_seconds: float) -> dict[str, float]:
    """CPU milliseconds per request of each contender.

    In each round all run one after another, so that other load on the machine slows them alike. The lower quartile of
    the rounds is used, because other load can only add to a figure.

    `round_seconds`: the CPU time that one contender should use in one round.
    """
    requests = {}
    for name, cost in contenders.items():
        once = max(cost(_WARM_REQUESTS) / _WARM_REQUESTS, 1e-6)
        requests[name] = min(_MOST, max(_FEWEST, int(round_seconds / once)))
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, cost in contenders.items():
            taken[name].append(cost(requests[name]) / requests[name] * 1000)
    return {name: sorted(values)[(rounds - 1) // 4] for name, values in taken.items()}
