"""Measures how swaps delay a caller: compares the slowest ranking during swaps with the p99 before them."""

import runpy
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.sample.calls import call

_SETTLED_S = 3.0  # a version's memory is given back a poll of the rollout after its last ranking


class CallError(RuntimeError):
    """A call that the measurement needs has failed."""


@dataclass(frozen=True)
class SwapCost:
    """The versions and number of swaps. `calm` is the number of rankings before the first swap."""

    url: str
    token: str
    model: str
    versions: tuple[str, ...]
    swaps: int
    calm: int
    candidates: int
    pause_s: float


def answered(options: SwapCost, method: str, path: str, body: Any = None) -> Any:
    """Return the body of an answer. Raises CallError for any status but 200."""
    status, answer = call(method, options.url.rstrip("/") + path, body, options.token, timeout_s=30)
    if status != 200:
        raise CallError(f"{method} {path}: {status or 'no answer'} {answer}")
    return answer


def timed_rank(options: SwapCost, request: dict[str, Any]) -> tuple[float, str]:
    """Return the milliseconds of one ranking, and the version that made it."""
    started = time.perf_counter()
    body = answered(options, "POST", "/rank", request)
    return (time.perf_counter() - started) * 1000, body["model"]["version"]


def memory(options: SwapCost) -> int:
    """Return the resident bytes of all workers of this host."""
    workers = answered(options, "GET", "/models")["workers"]
    return sum(_resident_bytes(worker["pid"]) for worker in workers)


def _resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024


def measure(options: SwapCost) -> dict[str, float]:
    """Milliseconds and bytes before, during and after the swaps."""
    request = {"user_id": "712", "candidates": [str(i) for i in range(options.candidates)]}
    # Before: rankings without a swap.
    calm = []
    for _ in range(options.calm):
        calm.append(timed_rank(options, request)[0])
        time.sleep(options.pause_s)
    calm.sort()
    memory_before = memory(options)
    # During: rank until the new version answers.
    during = []
    until_live = []
    for number in range(options.swaps):
        version = options.versions[number % len(options.versions)]
        answered(
            options,
            "PUT",
            "/models/rollout",
            {"stable": {"name": options.model, "version": version}, "author": "swap_cost"},
        )
        started = time.perf_counter()
        seen = ""
        while seen != version:
            ms, seen = timed_rank(options, request)
            during.append(ms)
            time.sleep(options.pause_s)
        until_live.append((time.perf_counter() - started) * 1000)
    # After: the memory of dropped versions is returned a moment later.
    time.sleep(_SETTLED_S)
    ordered = sorted(during)
    measured = {
        "swaps": options.swaps,
        "rankings_during": len(during),
        "p50_before_ms": calm[len(calm) // 2],
        "p99_before_ms": calm[int(0.99 * len(calm))],
        "worst_before_ms": calm[-1],
        "p99_during_ms": ordered[int(0.99 * len(ordered))],
        "worst_during_ms": ordered[-1],
        "swap_p50_ms": sorted(until_live)[len(until_live) // 2],
        "swap_worst_ms": max(until_live),
        "memory_before_bytes": memory_before,
        "memory_after_bytes": memory(options),
    }
    return {name: round(value, 1) for name, value in measured.items()}


if __name__ == "__main__":  # `python -m loadtest.swaps.cost` is `funnelrank swap-cost`
    sys.argv.insert(1, "swap-cost")
    runpy.run_module("funnelrank", run_name="__main__")
