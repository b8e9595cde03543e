"""The gate: compares a new version with the live one on recent requests, before it takes traffic."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter, thread_time

import numpy as np

from features.statistics import psi
from service.bundle.loading import Bundle
from service.bundle.verify import BundleRejected
from service.rollout.comparison import psi_by_chance
from service.rollout.recent import Assembly
from service.rollout.rollout import Limits

DRIFT = "score_drift"
SLOW = "too_slow"
NOT_FINITE = "scores_not_finite"
FAILED = "scoring_failed"
_MAX_SECONDS = 2.0
_MIN_TIMED = 10
# Below this many seconds, a ratio of times depends on the clock more than on the model.
_FLOOR_SECONDS = 0.0005


@dataclass(frozen=True)
class GateReport:
    """The gate's measurements: per task the PSI against the live version, and the median ratio of times.

    `brownout` is the loss of each step of a brown-out, if the rollout names a first pass: 1 - nDCG@10 against the full
    ranking. Empty if there were too few recent requests.
    """

    against: str
    requests: int = 0
    scores: int = 0
    psi: dict[str, float] = field(default_factory=dict)
    latency_ratio: float | None = None
    brownout: dict[str, float] = field(default_factory=dict)


def gate(new: Bundle, live: Bundle, recent: Sequence[Assembly], limits: Limits) -> GateReport:
    """Score recent requests with both versions, the newest request of each user.

    Raises BundleRejected with the figures if a limit is broken, or if the new version fails on a request.
    """
    requests = newest_per_user(recent)
    scored: list[tuple[np.ndarray, np.ndarray]] = []
    seconds: list[tuple[float, float]] = []
    end = perf_counter() + _MAX_SECONDS
    for assembly in requests:
        if perf_counter() > end:
            break
        of_live = _timed_by_live(live, assembly)
        if of_live is None:
            continue
        try:
            new_scores, new_time = _timed(new, assembly)
        except Exception as error:  # onnxruntime raises its own classes, some of them plain Exception
            raise BundleRejected(FAILED, f"it fails on a recent request that {live.label} scores: {error}") from error
        scored.append((of_live[0], new_scores))
        seconds.append((of_live[1], new_time))
    if not scored:
        return GateReport(live.label)

    # Compare the tasks that both have.
    old, other = (np.concatenate([pair[side] for pair in scored], axis=1) for side in (0, 1))
    tasks = [t for t in new.tasks if t in live.tasks]
    pairs = {t: (old[live.tasks.index(t)], other[new.tasks.index(t)]) for t in tasks}
    report = GateReport(live.label, len(scored), old.shape[1], _psi(pairs, limits), _ratio(seconds))
    _judge(report, pairs, limits)
    return report


def newest_per_user(recent: Sequence[Assembly]) -> list[Assembly]:
    """The newest request of each user, newest first.

    Each user counts once, because many requests of one user, such as a monitoring probe, are not independent evidence.
    """
    newest: dict[str, Assembly] = {}
    for assembly in reversed(recent):
        newest.setdefault(assembly.user_id, assembly)
    return list(newest.values())


def _timed_by_live(live: Bundle, assembly: Assembly) -> tuple[np.ndarray, float] | None:
    """Like `_timed`; None if the live version fails on the request. That must not keep its successor away."""
    try:
        return _timed(live, assembly)
    except Exception:  # noqa: BLE001 - onnxruntime raises its own classes
        return None


def _timed(bundle: Bundle, assembly: Assembly) -> tuple[np.ndarray, float]:
    """Return task scores `[tasks, C]` and the CPU seconds of this thread, which do not count other programs on the
    machine.
    """
    started = thread_time()
    scores = bundle.score(bundle.graph_inputs(assembly.inputs))
    return scores, thread_time() - started


def _psi(pairs: dict[str, tuple[np.ndarray, np.ndarray]], limits: Limits) -> dict[str, float]:
    measured = {}
    for task, (old, new) in pairs.items():
        usable = np.isfinite(old) & np.isfinite(new)
        if usable.sum() >= limits.min_scores:
            measured[task] = round(psi(old[usable], new[usable]), 4)
    return measured


def _ratio(seconds: Sequence[tuple[float, float]]) -> float | None:
    """Return the median over requests, so that an interruption of one of them does not decide."""
    if len(seconds) < _MIN_TIMED:
        return None
    return round(float(np.median([max(new, _FLOOR_SECONDS) / max(old, _FLOOR_SECONDS) for old, new in seconds])), 3)


def _judge(report: GateReport, pairs: dict[str, tuple[np.ndarray, np.ndarray]], limits: Limits) -> None:
    where = f"on {report.requests} recent requests against {report.against}"
    for task, (old, new) in pairs.items():
        broken = int((np.isfinite(old) & ~np.isfinite(new)).sum())
        if broken:
            raise BundleRejected(NOT_FINITE, f"{task}: {broken} of {report.scores} scores are NaN or infinite {where}")
    by_chance = psi_by_chance(report.requests, report.requests)
    for task, measured in report.psi.items():
        if limits.psi is not None and measured > limits.psi + by_chance:
            allowed = f"{limits.psi:g} is allowed (limits.psi)"
            detail = f"{task}: PSI {measured:.3f} over {report.scores} scores, {allowed}, {where}"
            raise BundleRejected(DRIFT, detail)
    if (
        limits.latency_ratio is not None
        and report.latency_ratio is not None
        and report.latency_ratio > limits.latency_ratio
    ):
        allowed = f"{limits.latency_ratio:g} times is allowed (limits.latency_ratio)"
        detail = f"{report.latency_ratio:.2f} times as slow {where}, {allowed}"
        raise BundleRejected(SLOW, detail)
