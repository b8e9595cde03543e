"""The measurements of one phase of load: latencies, failures, versions, and the delay of the load generator."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtest.checks.answers import Judgement


@dataclass
class Measurements:
    """Measurements in milliseconds. A latency counts from when a request was due, a service time from when it
    was sent.
    """

    latencies_ms: list[float] = field(default_factory=list)
    service_ms: list[float] = field(default_factory=list)
    generator_lags_ms: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    degraded: Counter[str] = field(default_factory=Counter)

    def record(self, answer: Judgement, latency_ms: float, service_ms: float) -> None:
        self.latencies_ms.append(latency_ms)
        self.service_ms.append(service_ms)
        self.degraded.update(answer.degraded)
        if answer.fault is None:
            self.models[answer.model] += 1
        else:
            self.failures[answer.fault] += 1

    def record_unanswered(self, count: int, why: str) -> None:
        """Count requests that were due and never answered: failures without a latency."""
        if count:
            self.failures[why] += count

    @property
    def failed(self) -> int:
        return self.failures.total()

    def holds(self, p99_limit_ms: float) -> bool:
        """Whether there were answers and no failure, and the p99 latency is within the limit."""
        return bool(self.latencies_ms) and not self.failed and percentile(self.latencies_ms, 0.99) <= p99_limit_ms

    def summary(self) -> dict[str, Any]:
        return {
            "answered": len(self.latencies_ms),
            "failures": self.failed,
            "failed_because": dict(self.failures.most_common()),
            "latency_ms": spread(self.latencies_ms),
            "service_ms": spread(self.service_ms),
            "generator_lag_ms": spread(self.generator_lags_ms),
            "models": dict(sorted(self.models.items())),
            "degraded": dict(sorted(self.degraded.items())),
        }


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: always a measured value, never an interpolation. NaN for no values."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)] if values else math.nan


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p95, p99 and maximum, rounded to 0.01; None for no values, because JSON has no NaN."""
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: round(percentile(values, share), 2) if values else None for name, share in shares.items()}
