"""Prints the result of a load test in the terminal."""

from collections import Counter

from loadtest.phases import Phase
from loadtest.run import Result

# If the load generator is this late at its p99, it measures itself more than the service.
LATE_GENERATOR_MS = 10.0


def describe(result: Result) -> str:
    """Return the closing lines of a run."""
    lines = [f"{'rate/s':>8} {'answered':>9} {'failures':>9} {'p50 ms':>9} {'p95 ms':>9} {'p99 ms':>9}"]
    lines[0] += f" {'service p99':>12}   (counted from the due time)"
    lines += [_row(phase) for phase in result.phases]
    if result.plan.find_limit:
        best = result.best()
        rate = f"{best.rate:.0f} requests/s" if best else "none of the rates tried"
        lines.append(
            f"highest load with p99 <= {result.plan.p99_limit_ms:g} ms and no failure, "
            f"{result.plan.candidates.text} candidates: {rate}"
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
    summary = phase.measurements.summary()
    latency = summary["latency_ms"]
    service = summary["service_ms"]
    cells = [latency["p50"], latency["p95"], latency["p99"], service["p99"]]
    texts = ["-" if value is None else f"{value:.1f}" for value in cells]
    counts = f"{summary['answered']:9d} {summary['failures']:9d}"
    return f"{phase.rate:8.0f} {counts} {texts[0]:>9} {texts[1]:>9} {texts[2]:>9} {texts[3]:>12}"


def _late_generator(phase: Phase) -> str | None:
    lag_ms = phase.measurements.summary()["generator_lag_ms"]["p99"]
    if lag_ms is None or lag_ms <= LATE_GENERATOR_MS:
        return None
    return (
        f"warning: at {phase.rate:.0f}/s the load generator itself was {lag_ms:.0f} ms late (p99): "
        "it needs a core of its own"
    )
