"""Owns the watch over a canary: what its rankings and those of the stable version came to, and whether it breaks the limits.

Each worker judges by what it has answered itself, and the first that finds a break takes the canary back for all; nothing is shared
between processes but the rollout document.
"""

from collections import deque
from collections.abc import Mapping

import numpy as np

from service.rollout.comparison import psi
from service.rollout.rollout import Limits
from service.rollout.score_samples import Samples

_REQUESTS_KEPT = 2000
# A ratio of times below this says more about the clock and the neighbours than about the model.
_FLOOR_SECONDS = 0.002


class Side:
    """What one version's rankings came to, the newest 2000 of them."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        self.seconds: deque[float] = deque(maxlen=_REQUESTS_KEPT)
        self.failed: deque[bool] = deque(maxlen=_REQUESTS_KEPT)
        self.samples = Samples(tasks)

    def note(self, seconds: float, failed: bool, predictions: np.ndarray | None) -> None:
        self.seconds.append(seconds)
        self.failed.append(failed)
        if predictions is not None and not failed:
            self.samples.note(predictions)

    @property
    def error_rate(self) -> float:
        return sum(self.failed) / max(len(self.failed), 1)


class Watch:
    """One canary against one stable version; another pair begins anew."""

    def __init__(self, canary_tasks: tuple[str, ...], stable_tasks: tuple[str, ...]) -> None:
        self.sides: Mapping[str, Side] = {"canary": Side(canary_tasks), "stable": Side(stable_tasks)}

    def note(self, role: str, seconds: float, failed: bool, predictions: np.ndarray | None) -> None:
        """One ranking; `predictions` are its task scores `[tasks, C]`, if it has any."""
        self.sides[role].note(seconds, failed, predictions)

    def verdict(self, limits: Limits) -> str | None:
        """Which limit is broken, with the numbers; None where none is or too little was seen."""
        canary = self.sides["canary"]
        stable = self.sides["stable"]
        if len(canary.failed) < limits.min_requests:
            return None
        return _errors(canary, stable, limits) or _latency(canary, stable, limits) or _drift(canary, stable, limits)


def _errors(canary: Side, stable: Side, limits: Limits) -> str | None:
    if limits.error_rate is None or canary.error_rate - stable.error_rate <= limits.error_rate:
        return None
    told = f"error rate {canary.error_rate:.3f} over {len(canary.failed)} rankings, stable has {stable.error_rate:.3f}"
    return f"{told}; {limits.error_rate:g} more is allowed (limits.error_rate)"


def _latency(canary: Side, stable: Side, limits: Limits) -> str | None:
    if limits.latency_ratio is None or len(stable.seconds) < limits.min_requests:
        return None
    of_canary, of_stable = (max(float(np.quantile(list(s.seconds), 0.95)), _FLOOR_SECONDS) for s in (canary, stable))
    if of_canary <= limits.latency_ratio * of_stable:
        return None
    told = f"p95 {of_canary * 1000:.1f} ms over {len(canary.seconds)} rankings, stable has {of_stable * 1000:.1f} ms"
    return f"{told}; {limits.latency_ratio:g} times is allowed (limits.latency_ratio)"


def _drift(canary: Side, stable: Side, limits: Limits) -> str | None:
    if limits.psi is None:
        return None
    of_canary = canary.samples.by_task()
    of_stable = stable.samples.by_task()
    for task in of_canary.keys() & of_stable.keys():
        if min(len(of_canary[task]), len(of_stable[task])) < limits.min_scores:
            continue
        found = psi(of_stable[task], of_canary[task])
        if found > limits.psi:
            return f"{task}: PSI {found:.3f} over {len(of_canary[task])} scores, {limits.psi:g} is allowed (limits.psi)"
    return None
