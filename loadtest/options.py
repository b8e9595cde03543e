"""The options of the load test, and the plan made from them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from loadtest.workload.counts import CandidateCounts

LONGEST_S = 3600.0

_POSITIVE = click.FloatRange(min=0, min_open=True, max=float("inf"), max_open=True)
_SECONDS = click.FloatRange(0, LONGEST_S)


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
    key: str
    report: Path | None
    summary: Path | None
    allow_remote: bool


def load_options() -> list[click.Option]:
    """The options of the load itself, which `locust -f loadtest/locustfile.py` takes too."""
    return [*_workload_options(), *_pace_options(), *_swap_options()]


def _workload_options() -> list[click.Option]:
    return [
        _option(
            "--data",
            type=click.Path(path_type=Path),
            default=Path("sample/kuairand"),
            help="Folder with users and items tables, parquet or CSV.",
        ),
        _option(
            "--candidates",
            type=CountsType(),
            default="200",
            metavar="SPEC",
            help="Per request: 200, or 50-500 (uniform), or 50:0.6,200:0.3,1000:0.1 (weighted).",
        ),
        _option(
            "--zipf",
            type=float,
            default=1.0,
            help="Skew: the r-th most popular id has a probability in proportion to 1/r^zipf.",
        ),
        _option(
            "--unknown-share",
            type=click.FloatRange(0, 1),
            default=0.01,
            help="Share of users, and of candidates, that the service has never seen.",
        ),
        _option("--scene", help="The field `scene` of every request."),
        _option(
            "--context", type=JsonType(), default="{}", metavar="JSON", help="The field `context` of every request."
        ),
        _option("--key", default="", help="A caller's key, if the service has any."),
        _option("--top-k", type=click.IntRange(min=1), help="`top_k` of every request."),
        _option("--seed", type=int, default=1, help="Seed of arrivals and draws."),
        _option(
            "--allow-degraded",
            is_flag=True,
            help="Count degraded answers as right. Unknown users and items are always allowed.",
        ),
    ]


def _pace_options() -> list[click.Option]:
    return [
        _option(
            "--rate",
            type=_POSITIVE,
            default=50.0,
            help="Requests per second; with --find-limit the rate of the first step.",
        ),
        _option("--warmup-s", type=_SECONDS, default=3.0, help="Duration of a warm-up, which is not counted."),
        _option(
            "--drain-s",
            type=_SECONDS,
            default=5.0,
            help="Time after the end in which late requests may still be sent and answered.",
        ),
        _option("--timeout-s", type=_POSITIVE, default=5.0, help="An answer that takes longer is a failure."),
        _option(
            "--find-limit",
            is_flag=True,
            help="Find the highest rate that keeps --p99-limit-ms without a failure, step by step.",
        ),
        _option(
            "--p99-limit-ms", type=_POSITIVE, default=50.0, help="Limit of the latency, measured from the due time."
        ),
        _option("--step-s", type=_SECONDS, default=10.0, help="Length of one step."),
        _option("--max-steps", type=click.IntRange(min=1), default=12, help="Largest number of steps."),
    ]


def _swap_options() -> list[click.Option]:
    return [
        _option(
            "--swap", multiple=True, metavar="NAME/VERSION", help="Versions to roll out in turn; give at least two."
        ),
        _option("--swap-every-s", type=_POSITIVE, default=3.0, help="Seconds between two swaps."),
        _option(
            "--admin-token", envvar="FUNNELRANK_ADMIN_TOKEN", show_envvar=True, default="", help="The operators' token."
        ),
    ]


def _option(*names: str, **attributes: Any) -> click.Option:
    return click.Option(names, show_default=True, **attributes)


class CountsType(click.ParamType[CandidateCounts]):
    """Reads `200`, `50-500` or `50:0.6,200:0.4`."""

    name = "candidates"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> CandidateCounts:
        try:
            return value if isinstance(value, CandidateCounts) else CandidateCounts.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class JsonType(click.ParamType[dict[str, Any]]):
    """Reads a JSON object."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        try:
            read = json.loads(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(f"{value!r} is not JSON: {error}", param, ctx)
        if not isinstance(read, dict):
            self.fail(f"{value!r} is not a JSON object", param, ctx)
        return read
