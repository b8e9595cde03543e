"""The command line of the load test: every flag with its unit, and the plan that the rest reads."""

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.workload.counts import CandidateCounts

LONGEST_S = 3600.0

EXAMPLE = """examples:
  make run                                            in one terminal, and in another:
  python -m loadtest --rate 100 --candidates 200 --duration-s 30 --report reports/loadtest.html
  python -m loadtest --candidates 200 --find-limit --p99-limit-ms 50
  python -m loadtest --rate 50 --swap kuairand-mmoe/1 --swap kuairand-mmoe/2 --swap-every-s 3

Load is open loop: requests are due at times fixed beforehand (a Poisson process), whether or not earlier ones were answered, and each
latency counts from the moment its request was due. A server that stalls is charged with everything that had to wait for it.
Exit codes: 0 every answer was right; 1 something failed, or a swapped-in version was never seen; 2 the flags or the data are wrong."""


@dataclass(frozen=True)
class Plan:
    """What to send, how fast and for how long; one field per flag."""

    url: str
    data: Path
    rate: float
    users: int
    candidates: CandidateCounts
    duration_s: float
    warmup_s: float
    drain_s: float
    timeout_s: float
    unknown_share: float
    zipf: float
    scene: str | None
    context: dict[str, Any]
    top_k: int | None
    seed: int
    allow_degraded: bool
    find_limit: bool
    p99_limit_ms: float
    step_s: float
    max_steps: int
    swap: tuple[str, ...]
    swap_every_s: float
    admin_token: str
    report: Path | None
    summary: Path | None
    allow_remote: bool


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest",
        description="Open-loop load on POST /rank; every answer is checked.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the running service (%(default)s)")
    parser.add_argument(
        "--users",
        type=_positive_int,
        default=64,
        help="connections, so the most requests under way at once (%(default)s)",
    )
    parser.add_argument(
        "--duration-s", type=_seconds, default=30.0, help=f"measured time, at most {LONGEST_S:.0f} (%(default)s)"
    )
    parser.add_argument("--report", type=Path, help="write locust's HTML report here")
    parser.add_argument("--summary", type=Path, help="write the summary as JSON here")
    parser.add_argument(
        "--allow-remote",
        action="store_true",
        help="allow a service that is not on this machine's loopback; ask its owner first",
    )
    add_load_arguments(parser)
    return parser


def add_load_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that `locust -f loadtest/locustfile.py` takes too, next to locust's own."""
    _add_workload(parser)
    _add_pace(parser)
    _add_swap(parser)


def _add_workload(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("requests")
    group.add_argument(
        "--data",
        type=Path,
        default=Path("sample/kuairand"),
        help="folder with users and items tables, parquet or CSV (%(default)s)",
    )
    group.add_argument(
        "--candidates",
        type=CandidateCounts.parse,
        default=CandidateCounts.parse("200"),
        metavar="SPEC",
        help="per request: 200, or 50-500 (uniform), or 50:0.6,200:0.3,1000:0.1 (weighted) (%(default)s)",
    )
    group.add_argument(
        "--zipf",
        type=float,
        default=1.0,
        help="skew: the r-th most popular id is drawn in proportion to 1/r^zipf (%(default)s)",
    )
    group.add_argument(
        "--unknown-share",
        type=_share,
        default=0.01,
        help="share of users, and of candidates, that the service has never seen (%(default)s)",
    )
    group.add_argument("--scene", help="`scene` of every request")
    group.add_argument("--context", type=json.loads, default={}, metavar="JSON", help="`context` of every request")
    group.add_argument("--top-k", type=_positive_int, help="`top_k` of every request")
    group.add_argument("--seed", type=int, default=1, help="of arrivals and draws (%(default)s)")
    group.add_argument(
        "--allow-degraded",
        action="store_true",
        help="count degraded answers as right; unknown users and items are always allowed",
    )


def _add_pace(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pace")
    group.add_argument(
        "--rate",
        type=_positive,
        default=50.0,
        help="requests per second; with --find-limit the rate of the first step (%(default)s)",
    )
    group.add_argument("--warmup-s", type=_seconds, default=3.0, help="sent first and not counted (%(default)s)")
    group.add_argument(
        "--drain-s",
        type=_seconds,
        default=5.0,
        help="how long late requests may still be sent and answered after the end (%(default)s)",
    )
    group.add_argument(
        "--timeout-s", type=_positive, default=5.0, help="an answer that takes longer is a failure (%(default)s)"
    )
    group.add_argument(
        "--find-limit",
        action="store_true",
        help="step the rate to find the highest that keeps --p99-limit-ms without a failure",
    )
    group.add_argument(
        "--p99-limit-ms", type=_positive, default=50.0, help="of the latency from the due time (%(default)s)"
    )
    group.add_argument("--step-s", type=_seconds, default=10.0, help="length of one step (%(default)s)")
    group.add_argument("--max-steps", type=_positive_int, default=12, help="steps at most (%(default)s)")


def _add_swap(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("swapping models under load")
    group.add_argument(
        "--swap",
        action="append",
        default=[],
        metavar="NAME/VERSION",
        help="roll out these in turn; give it twice or more",
    )
    group.add_argument("--swap-every-s", type=_positive, default=3.0, help="(%(default)s)")
    group.add_argument(
        "--admin-token",
        default=os.environ.get("FUNNELRANK_ADMIN_TOKEN", ""),
        help="the operator's token (from FUNNELRANK_ADMIN_TOKEN)",
    )


def plan_of(options: argparse.Namespace, **overrides: Any) -> Plan:
    """The plan behind parsed flags; `overrides` stand in for flags that locust has under another name."""
    values: dict[str, Any] = {field: getattr(options, field, None) for field in Plan.__dataclass_fields__} | overrides
    values["swap"] = tuple(values["swap"])
    return Plan(**values)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {LONGEST_S:.0f} seconds")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
