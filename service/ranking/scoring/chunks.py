"""Scores the candidates of one request, a chunk at a time."""

import logging
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from service.bundle.loading import PER_CANDIDATE, Bundle
from service.ranking.scoring.scheduler import Scheduler

log = logging.getLogger("funnelrank.ranker")


class Scored(NamedTuple):
    """Task scores float32 `[tasks, C]` (all NaN if the model `failed`), and the seconds that scoring took.

    `vectors` has the requested item vectors `[C, D]` by name, none if the model failed.
    """

    predictions: np.ndarray
    seconds: float
    failed: bool
    vectors: Mapping[str, np.ndarray] = MappingProxyType({})


async def score_in_chunks(
    scheduler: Scheduler,
    bundle: Bundle,
    inputs: Mapping[str, np.ndarray],
    candidates: int,
    chunk: int,
    check: Callable[[], None],
    places: np.ndarray | None = None,
    vectors: Sequence[str] = (),
) -> Scored:
    """Score `candidates`, at most `chunk` at a time, so that a long list does not block short ones.

    `check` may raise before each chunk. With `places` `[candidates]`, the candidates at these positions are scored: the
    second pass of a ranking whose first pass has waited already, so it does not wait for the rankings behind it.
    `vectors` names the item vectors that the rules need.
    """
    used = bundle.graph_inputs(inputs) if places is None else bundle.graph_inputs_at(inputs, places)
    parts: list[np.ndarray] = []
    parts_of_vectors: list[list[np.ndarray]] = []
    seconds = 0.0
    for start in range(0, candidates, chunk):
        part = used if candidates <= chunk else _slice(used, start, start + chunk)
        # Wait for the lock: other rankings score their chunks in between.
        await scheduler.acquire(next_turn=places is not None)
        try:
            # While this ranking waited, its deadline may have passed or its caller left.
            check()
            started = perf_counter()
            computed = score(bundle, part, vectors)
            seconds += perf_counter() - started
        finally:
            scheduler.release()
        # If the model fails on one chunk, all scores are dropped: a list with half of them would be ordered at random.
        if computed is None:
            return Scored(np.full((len(bundle.tasks), candidates), np.nan, dtype=np.float32), seconds, failed=True)
        parts.append(computed[0])
        parts_of_vectors.append(computed[1])
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    if not vectors:
        return Scored(whole, seconds, failed=False)
    columns = zip(vectors, zip(*parts_of_vectors, strict=True), strict=True)
    return Scored(whole, seconds, failed=False, vectors={name: np.concatenate(column) for name, column in columns})


def score(
    bundle: Bundle, inputs: dict[str, np.ndarray], vectors: Sequence[str] = ()
) -> tuple[np.ndarray, list[np.ndarray]] | None:
    """Return task scores float32 `[tasks, C]`, and the item vectors of these names, float32 `[C, D]` each.

    If the model fails, return None and write a log line.
    """
    try:
        if vectors:
            return bundle.score_with(inputs, vectors)
        return bundle.score(inputs), []
    except Exception:
        log.exception("model %s failed", bundle.label)
        return None


def _slice(inputs: Mapping[str, np.ndarray], start: int, end: int) -> dict[str, np.ndarray]:
    return {name: array[start:end] if name in PER_CANDIDATE else array for name, array in inputs.items()}
