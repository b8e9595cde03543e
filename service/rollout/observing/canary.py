"""Watches a canary: compares its errors, times and scores with the stable version's, and reports a broken limit.

Callers must not be able to make a canary fail. Therefore both versions score the canary's requests again in the
background: a short deadline, a long list or odd values affect both alike. Each worker judges by its own requests, and
the first worker that sees a broken limit withdraws the canary for all. Workers share only the rollout document.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from time import thread_time

import numpy as np

from features.statistics import psi
from service.bundle.loading import Bundle
from service.rollout.comparison import psi_by_chance, sampled_places
from service.rollout.observing.background import BudgetedThread
from service.rollout.rollout import Limits
from service.rollout.serving import Live

_USERS_KEPT = 2000
# Below this many seconds, a ratio of times depends on the clock more than on the model.
_FLOOR_SECONDS = 0.001


@dataclass(frozen=True, slots=True, eq=False)
class ScoredRequest:
    """One version's result for one request: CPU seconds (None if they cannot be compared) and sampled task scores
    `[tasks, <= 16]`.
    """

    seconds: float | None
    failed: bool
    scores: np.ndarray | None


class Side:
    """One version's results for the newest request of each user, for the newest 2000 users.

    One request per user, because many requests of one user, such as a monitoring probe, are not independent evidence.
    """

    def __init__(self, tasks: tuple[str, ...]) -> None:
        self.tasks = tasks
        self._by_user: dict[str, ScoredRequest] = {}

    def note(self, user_id: str, seconds: float | None, failed: bool, predictions: np.ndarray | None) -> None:
        """Add a request; `predictions` holds its task scores `[tasks, C]`, None if the model gave none."""
        scores = None
        if predictions is not None and not failed:
            scores = predictions[:, sampled_places(predictions.shape[1])]
        self._by_user.pop(user_id, None)
        self._by_user[user_id] = ScoredRequest(seconds, failed, scores)
        if len(self._by_user) > _USERS_KEPT:
            del self._by_user[next(iter(self._by_user))]

    @property
    def users(self) -> int:
        return len(self._by_user)

    @property
    def error_rate(self) -> float:
        return sum(r.failed for r in self._by_user.values()) / max(self.users, 1)

    def seconds(self) -> list[float]:
        return [r.seconds for r in self._by_user.values() if r.seconds is not None]

    def scores_of(self, task: str) -> tuple[np.ndarray, int]:
        """Return the finite scores of a task, and the number of users that they come from."""
        row = self.tasks.index(task)
        parts = [r.scores[row] for r in self._by_user.values() if r.scores is not None]
        if not parts:
            return np.empty(0, dtype=np.float32), 0
        scores = np.concatenate(parts)
        return scores[np.isfinite(scores)], len(parts)


class Sides:
    """The results of one canary and of one stable version."""

    def __init__(self, canary_tasks: tuple[str, ...], stable_tasks: tuple[str, ...]) -> None:
        self.by_role: Mapping[str, Side] = {"canary": Side(canary_tasks), "stable": Side(stable_tasks)}

    def note(
        self, role: str, user_id: str, seconds: float | None, failed: bool, predictions: np.ndarray | None
    ) -> None:
        """Add the result of the version in this role for one request."""
        self.by_role[role].note(user_id, seconds, failed, predictions)

    def verdict(self, limits: Limits) -> str | None:
        """Return a message with the broken limit and its figures; None if no limit is broken or too few users were
        seen.
        """
        canary = self.by_role["canary"]
        stable = self.by_role["stable"]
        if canary.users < limits.min_requests:
            return None
        return _errors(canary, stable, limits) or _latency(canary, stable, limits) or _drift(canary, stable, limits)


def _errors(canary: Side, stable: Side, limits: Limits) -> str | None:
    if limits.error_rate is None or canary.error_rate - stable.error_rate <= limits.error_rate:
        return None
    measured = f"error rate {canary.error_rate:.3f} over {canary.users} users, stable has {stable.error_rate:.3f}"
    return f"{measured}; {limits.error_rate:g} more is allowed (limits.error_rate)"


def _latency(canary: Side, stable: Side, limits: Limits) -> str | None:
    of_canary = canary.seconds()
    of_stable = stable.seconds()
    if limits.latency_ratio is None or min(len(of_canary), len(of_stable)) < limits.min_requests:
        return None
    slowest = [max(float(np.quantile(s, 0.95)), _FLOOR_SECONDS) for s in (of_canary, of_stable)]
    # One interruption of the thread can move a high quantile of few users, but not a lower quantile as well.
    slower = [max(float(np.quantile(s, 0.75)), _FLOOR_SECONDS) for s in (of_canary, of_stable)]
    if min(slowest[0] / slowest[1], slower[0] / slower[1]) <= limits.latency_ratio:
        return None
    measured = f"p95 {slowest[0] * 1000:.1f} ms over {len(of_canary)} users, stable has {slowest[1] * 1000:.1f} ms"
    return f"{measured}; {limits.latency_ratio:g} times is allowed (limits.latency_ratio)"


def _drift(canary: Side, stable: Side, limits: Limits) -> str | None:
    if limits.psi is None:
        return None
    for task in canary.tasks:
        if task not in stable.tasks:
            continue
        of_canary, canary_users = canary.scores_of(task)
        of_stable, stable_users = stable.scores_of(task)
        if min(len(of_canary), len(of_stable)) < limits.min_scores:
            continue
        if min(canary_users, stable_users) < limits.min_requests:
            continue
        measured = psi(of_stable, of_canary)
        if measured > limits.psi + psi_by_chance(stable_users, canary_users):
            return f"{task}: PSI {measured:.3f} over {canary_users} users, {limits.psi:g} is allowed (limits.psi)"
    return None


class Comparison:
    """Scores requests again with a canary and its stable version, and keeps the results of both.

    If the feature schemas differ, one request cannot be scored by both. Then each version scores its own requests (only
    those without feature values from the caller), and times are not compared.
    """

    def __init__(self, canary: Bundle, stable: Bundle) -> None:
        self.canary = canary
        self.stable = stable
        self._same_schema = canary.layouts.inputs_fingerprint == stable.layouts.inputs_fingerprint
        self._sides = Sides(canary.tasks, stable.tasks)
        self._lock = threading.Lock()
        self._turn = False

    def wants(self, bundle: Bundle, own_features: bool) -> bool:
        """Return whether a request that `bundle` answered is to be compared."""
        if self._same_schema:
            return bundle is self.canary
        return not own_features and (bundle is self.canary or bundle is self.stable)

    def compare(self, bundle: Bundle, user_id: str, inputs: Mapping[str, np.ndarray]) -> None:
        """Score a request and add the result of each version."""
        if self._same_schema:
            # The first of two runs is slower because caches are cold, so the versions take turns.
            roles = [("canary", self.canary), ("stable", self.stable)]
            self._turn = not self._turn
            results = [(role, _scored(version, inputs)) for role, version in (roles if self._turn else reversed(roles))]
            # Add both at once: a verdict between the two would count a request that fails in both versions for only
            # one.
            with self._lock:
                for role, result in results:
                    self._sides.note(role, user_id, *result)
            return
        _seconds, failed, predictions = _scored(bundle, inputs)
        with self._lock:
            self._sides.note("canary" if bundle is self.canary else "stable", user_id, None, failed, predictions)

    def verdict(self, limits: Limits) -> str | None:
        with self._lock:
            return self._sides.verdict(limits)


def _scored(bundle: Bundle, inputs: Mapping[str, np.ndarray]) -> tuple[float, bool, np.ndarray | None]:
    """CPU seconds of this thread, whether a score is missing, and task scores `[tasks, C]`."""
    started = thread_time()
    try:
        predictions = bundle.score(bundle.graph_inputs(inputs))
    except Exception:  # noqa: BLE001 - onnxruntime raises classes of its own; a failed run is counted as such
        return thread_time() - started, True, None
    return thread_time() - started, not bool(np.isfinite(predictions).all()), predictions


class CanaryWatch:
    """Holds the comparison of the live canary, if there is one, and the thread that it runs in."""

    def __init__(self) -> None:
        self.thread = BudgetedThread("canary")
        self._comparison: Comparison | None = None

    def follow(self, canary: Live | None, stable: Live | None, share: float) -> None:
        """Start a new comparison if the canary or the stable version has changed."""
        self.thread.share = share
        if canary is None or stable is None:
            self._comparison = None
            return
        before = self._comparison
        if before is None or (before.canary, before.stable) != (canary.bundle, stable.bundle):
            self._comparison = Comparison(canary.bundle, stable.bundle)

    @property
    def is_comparing(self) -> bool:
        return self._comparison is not None

    def offer(self, bundle: Bundle, user_id: str, inputs: Mapping[str, np.ndarray], own_features: bool) -> None:
        """Queue a request that `bundle` answered, if `bundle` is part of the comparison. Never waits."""
        comparison = self._comparison
        if comparison is not None and comparison.wants(bundle, own_features):
            self.thread.offer(partial(comparison.compare, bundle, user_id, inputs))

    def verdict(self, limits: Limits) -> str | None:
        """The limit that the canary breaks; None if it breaks none or no canary is live."""
        return self._comparison.verdict(limits) if self._comparison is not None else None
