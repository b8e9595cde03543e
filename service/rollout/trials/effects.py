"""Measures what other fusion profiles or rules would change: the top ten of recent requests, before and after."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter, sleep
from typing import NamedTuple

import numpy as np

from service.clock import now_ms
from service.errors import InvalidRequest
from service.rollout.recent import Assembly, RecentRequests
from service.rollout.serving import Live, Role, ServingSnapshot
from service.rules.candidates import CandidateList, columns_of
from service.rules.order.arrange import arrange

_TOP = 10
_MAX_SECONDS = 2.0  # of computing, for all versions together
_PAUSE = 1.0  # seconds of pause per second of computing, so that rankings do not wait
_ROLES = (Role.STABLE, Role.CANARY)


@dataclass(slots=True)
class TaskSums:
    """Sums and counts of one task's finite scores in the top ten, before and after."""

    before: float = 0.0
    after: float = 0.0
    n_before: int = 0
    n_after: int = 0


@dataclass(slots=True)
class RequestCounts:
    """`n` requests were compared; `refused` ones name a scene that the new profiles lack."""

    n: int = 0
    unchanged: int = 0
    empty: int = 0
    refused: int = 0


@dataclass(slots=True, eq=False)
class Effect:
    """What changes for the requests of one version.

    `changed` and `moved` are sums over the compared requests: the share of the top ten's items that leave it, and the
    share of its places that hold another item.
    """

    live: Live
    line: str
    requests: RequestCounts = field(default_factory=RequestCounts)
    changed: float = 0.0
    moved: float = 0.0
    tasks: dict[str, TaskSums] = field(default_factory=dict)


class _Scored(NamedTuple):
    """The task scores `[tasks, C]` of a request, and the item vectors that rules read."""

    predictions: np.ndarray
    vectors: dict[str, np.ndarray]


def effects(before: ServingSnapshot, after: ServingSnapshot, recent: RecentRequests) -> list[Effect]:
    """Rank the newest requests with both snapshots, which have the same versions; the time is shared by all versions.

    Rules of the types `seen` and `cap` are applied as to users who have seen nothing.
    """
    measured = []
    pairs = list(_pairs(before, after))
    for line, old, new in pairs:
        effect = Effect(old, line, tasks={task: TaskSums() for task in old.bundle.tasks})
        requests = recent.of(old.bundle.layouts.inputs_fingerprint, line)
        _compare(effect, old, new, requests[::-1], _MAX_SECONDS / len(pairs))
        measured.append(effect)
    return measured


def _pairs(before: ServingSnapshot, after: ServingSnapshot) -> Iterator[tuple[str, Live, Live]]:
    """The versions that rank, by line and role, in both snapshots."""
    for name, line in before.lines.items():
        for role in _ROLES:
            old = line.in_role(role)
            new = after.lines[name].in_role(role)
            if old is not None and new is not None:
                yield name, old, new


def _compare(effect: Effect, old: Live, new: Live, requests: Sequence[Assembly], seconds: float) -> None:
    spent = 0.0
    for request in requests:
        started = perf_counter()
        _compare_request(effect, old, new, request)
        used = perf_counter() - started
        spent += used
        if spent > seconds:
            break
        sleep(used * _PAUSE)


def _compare_request(effect: Effect, old: Live, new: Live, request: Assembly) -> None:
    """Add the changes of one request. One that the version cannot score is left out: it is so with any document."""
    scored = _scored(old, new, request)
    if scored is None:
        return
    first = _top(old, request, scored)
    if first is None:
        return
    second = _top(new, request, scored)
    if second is None:
        effect.requests.refused += 1
        return
    # Compare the places.
    places = max(len(first), len(second))
    same = sum(one == other for one, other in zip(first, second, strict=False))
    effect.requests.n += 1
    effect.requests.empty += not second
    effect.requests.unchanged += first == second
    if places:
        effect.changed += len(set(first) - set(second)) / max(1, len(first))
        effect.moved += 1 - same / places
    # Add up the scores of the tasks.
    for row, task in enumerate(old.bundle.tasks):
        sums = effect.tasks[task]
        scores_before = _finite(scored.predictions[row, first])
        scores_after = _finite(scored.predictions[row, second])
        sums.before += float(scores_before.sum())
        sums.n_before += len(scores_before)
        sums.after += float(scores_after.sum())
        sums.n_after += len(scores_after)


def _scored(old: Live, new: Live, request: Assembly) -> _Scored | None:
    """Score a request once for both sides; None if the version fails."""
    bundle = old.bundle
    bound = [rules for live in (old, new) if live.rules is not None for rules in live.rules.bound.values()]
    names = tuple(dict.fromkeys(name for rules in bound for name in rules.outputs))
    try:
        predictions, vectors = bundle.score_with(bundle.graph_inputs(request.inputs), names)
    except Exception:  # noqa: BLE001 - onnxruntime raises its own classes
        return None
    return _Scored(predictions, dict(zip(names, vectors, strict=True)))


def _top(live: Live, request: Assembly, scored: _Scored) -> list[int] | None:
    """The places of the first ten candidates; None if the profiles refuse the request's scene."""
    numerics = request.inputs.get("item_numerics")
    try:
        formula, _ = live.fusion.for_user(request.scene, request.user_id)
    except InvalidRequest:
        return None
    scores = formula.fuse(scored.predictions, numerics)
    rules = live.rules.for_user(request.scene, request.user_id) if live.rules is not None else None
    if rules is None or numerics is None:
        finite = np.where(np.isfinite(scores), scores, -np.inf)
        return (-finite).argsort(kind="stable")[:_TOP].tolist()  # type: ignore[no-any-return]
    candidates = CandidateList(
        request.item_ids,
        *columns_of(request.inputs),
        scores,
        scored.predictions,
        request.sources,
        scored.vectors,
    )
    return arrange(rules.bound, candidates, _TOP, now_ms()).order.tolist()  # type: ignore[no-any-return]


def _finite(values: np.ndarray) -> np.ndarray:
    return np.asarray(values[np.isfinite(values)], dtype=np.float64)
