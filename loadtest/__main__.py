"""`python -m loadtest`: runs one load test and says in the terminal, in JSON and by the exit code how it went."""

import sys
from collections import Counter

# locust patches the standard library for gevent while it is imported, so it comes before everything that opens sockets.
import locust  # noqa: F401
import orjson

from loadtest.options import build_parser, plan_of
from loadtest.phases import Phase
from loadtest.run import Result, execute, summary_of
from loadtest.target import TargetError, require_loopback
from loadtest.workload.workload import WorkloadError

# A generator this late at its 99th percentile measures itself; the numbers then say little about the service.
LATE_GENERATOR_MS = 10.0


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    plan = plan_of(parser.parse_args(arguments))
    if plan.swap and plan.find_limit:
        parser.error("--swap and --find-limit are two different runs")
    if plan.swap and (len(set(plan.swap)) < 2 or any("/" not in model for model in plan.swap)):
        parser.error("--swap wants two different NAME/VERSION or more")
    try:
        if not plan.allow_remote:
            require_loopback(plan.url)
        result = execute(plan)
    except (TargetError, WorkloadError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    if plan.summary is not None:
        plan.summary.parent.mkdir(parents=True, exist_ok=True)
        plan.summary.write_bytes(orjson.dumps(summary_of(result), option=orjson.OPT_INDENT_2))
    print(describe(result))
    return 1 if result.faults() else 0


def describe(result: Result) -> str:
    """The closing lines of a run."""
    lines = [
        f"{'rate/s':>8} {'answered':>9} {'failures':>9} {'p50 ms':>9} {'p95 ms':>9} {'p99 ms':>9} {'service p99':>12}   (counted from the due time)"
    ]
    lines += [_row(phase) for phase in result.phases]
    if result.plan.find_limit:
        best = result.best()
        rate = f"{best.rate:.0f} requests/s" if best else "none of the rates tried"
        lines.append(
            f"highest load with p99 <= {result.plan.p99_limit_ms:g} ms and no failure, {result.plan.candidates.text} candidates: {rate}"
        )
    if result.plan.swap:
        lines.append(f"{len(result.swaps.done)} rollouts; answers by version: {dict(sorted(result.models.items()))}")
    degraded = sum((phase.measurements.degraded for phase in result.phases), Counter[str]())
    lines += [f"degraded answers: {dict(degraded)}"] if degraded else []
    lines += [warning for phase in result.phases if (warning := _late_generator(phase))]
    faults = result.faults()
    lines += [f"FAILED: {fault}" for fault in faults] or [
        "every answer was right" if not result.plan.find_limit else "done"
    ]
    return "\n".join(lines)


def _row(phase: Phase) -> str:
    found = phase.measurements.summary()
    latency = found["latency_ms"]
    service = found["service_ms"]
    cells = [latency["p50"], latency["p95"], latency["p99"], service["p99"]]
    texts = ["-" if value is None else f"{value:.1f}" for value in cells]
    return f"{phase.rate:8.0f} {found['answered']:9d} {found['failures']:9d} {texts[0]:>9} {texts[1]:>9} {texts[2]:>9} {texts[3]:>12}"


def _late_generator(phase: Phase) -> str | None:
    lag_ms = phase.measurements.summary()["generator_lag_ms"]["p99"]
    if lag_ms is None or lag_ms <= LATE_GENERATOR_MS:
        return None
    return f"warning: at {phase.rate:.0f}/s the load generator itself sent {lag_ms:.0f} ms late (p99): it needs a core of its own"


if __name__ == "__main__":
    sys.exit(main())
