"""`python -m loadtest.swaps.cost`: what swapping costs a caller: the worst ranking while versions are swapped, against the p99 before."""

import argparse
import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

_SETTLED_S = 3.0  # a version's memory is given back a poll of the rollout after its last ranking


def call(options: argparse.Namespace, method: str, path: str, body: Any = None) -> Any:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {options.token}"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(options.url.rstrip("/") + path, data=data, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:  # nosec B310 # the URL is the operator's own
        return json.load(answer)


def timed_rank(options: argparse.Namespace, request: dict[str, Any]) -> tuple[float, str]:
    """Milliseconds of one ranking, and the version that made it."""
    started = time.perf_counter()
    body = call(options, "POST", "/rank", request)
    return (time.perf_counter() - started) * 1000, body["model"]["version"]


def memory(options: argparse.Namespace) -> int:
    """Resident bytes of all workers of this host."""
    pids = [w["pid"] for w in call(options, "GET", "/models")["workers"]]
    return (
        sum(
            int(line.split()[1])
            for p in pids
            for line in Path(f"/proc/{p}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        )
        * 1024
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.swaps.cost", description="Worst ranking during swaps against the p99 before."
    )
    parser.add_argument("--url", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--model", required=True, help="model name")
    parser.add_argument("--versions", nargs="+", required=True, help="versions to swap among, in turn")
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument(
        "--calm",
        type=int,
        default=2000,
        metavar="N",
        help="rankings before the first swap: a worst of many is worse than one of few",
    )
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--pause-s", type=float, default=0.005, help="between two rankings")
    options = parser.parse_args()
    request = {"user_id": "712", "candidates": [str(i) for i in range(options.candidates)]}
    calm = []
    for _ in range(options.calm):
        calm.append(timed_rank(options, request)[0])
        time.sleep(options.pause_s)
    calm.sort()
    memory_before = memory(options)
    during = []
    until_live = []
    for number in range(options.swaps):
        version = options.versions[number % len(options.versions)]
        call(
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
    time.sleep(_SETTLED_S)
    ordered = sorted(during)
    told = {
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
    print(json.dumps({k: round(v, 1) for k, v in told.items()}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
