"""Compares a graph in reduced precision with the float32 one: AUC, score differences, speed and size."""

import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from export.reduced.judged import CANDIDATES, Impressions, Judged
from export.reduced.precision import ReductionError
from export.requests import Inputs, request
from models.kinds import TaskKind
from models.network.model import MultiTaskModel
from models.training.run import Run
from service.bundle.loading import open_session
from service.bundle.manifest import Reduced, ReducedOutput, Reduction

MAX_LOSS = 0.001
SPEED_CANDIDATES = 200
_REQUESTS = 16
_ROUNDS = 9
_RUNS = 64
_SHOW_EVERY = 2000


def measure(
    run: Run, full: bytes, reduced: bytes, precision: Reduced, impressions: Impressions, max_loss: float
) -> Reduction:
    """Run both graphs on the same requests. Raises ReductionError if an output loses more than `max_loss`."""
    names = list(run.ranker.score_names)
    sessions = [open_session(graph, 1) for graph in (full, reduced)]
    length = run.encoding.schema.behaviour.max_length if run.encoding.schema.behaviour else 0
    float32_ms, reduced_ms = _cpu_ms(run, sessions, names, length)
    measured = Reduction(
        precision=precision,
        part=impressions.part,
        impressions=len(impressions.picked),
        candidates=CANDIDATES,
        outputs=_quality(run.ranker, impressions, sessions, names, run.recipe.training.seed),
        max_loss=max_loss,
        speed_candidates=SPEED_CANDIDATES,
        speed_behaviours=length,
        float32_cpu_ms=float32_ms,
        cpu_ms=reduced_ms,
        float32_bytes=len(full),
        graph_bytes=len(reduced),
    )
    _refuse(measured)
    return measured


def _refuse(measured: Reduction) -> None:
    for name, output in measured.outputs.items():
        if output.loss is not None and output.loss > measured.max_loss:
            raise ReductionError(
                f"{name}: {output.measure} {output.float32:.5f} in float32 and {output.reduced:.5f} in "
                f"{measured.precision} "
                f"over {measured.impressions:,} impressions of the {measured.part} part: a loss of {output.loss:.5f}, "
                f"{measured.max_loss:g} is allowed; "
                "export in float32 or raise --max-auc-loss"
            )


def _quality(
    ranker: MultiTaskModel, impressions: Impressions, sessions: Sequence[Any], names: list[str], seed: int
) -> dict[str, ReducedOutput]:
    n = len(impressions.picked)
    scores = np.empty((len(sessions), len(names), n), np.float32)
    largest = np.zeros(len(names))
    total = np.zeros(len(names))
    for i, inputs in enumerate(impressions.requests(seed)):
        both = np.stack([np.stack(session.run(names, inputs)) for session in sessions])
        scores[:, :, i] = both[:, :, 0]
        difference = np.abs(both[1].astype(np.float64) - both[0])
        largest = np.maximum(largest, difference.max(1))
        total = total + difference.mean(1)
        if (i + 1) % _SHOW_EVERY == 0:
            print(f"measured    {i + 1:,} of {n:,} impressions in both precisions", file=sys.stderr, flush=True)
    kinds = {name: output.kind for output in ranker.outputs for name in output.score_names}
    return {
        name: judge(
            impressions.judged[name], kinds[name], scores[0, j], scores[1, j], float(largest[j]), float(total[j] / n)
        )
        for j, name in enumerate(names)
    }


def judge(
    by: Judged, kind: TaskKind, full: np.ndarray, reduced: np.ndarray, largest: float, mean: float
) -> ReducedOutput:
    """Compare one score in both precisions by the measure of its kind; None if it has no label."""
    label = by.label[by.inside]
    before, after = (kind.quality(label, scores[by.inside]) for scores in (full, reduced))
    loss = None if before is None or after is None else kind.quality_loss(before, after)
    return ReducedOutput(
        measure=kind.measure,
        float32=before,
        reduced=after,
        loss=loss,
        max_abs_difference=largest,
        mean_abs_difference=mean,
    )


def _cpu_ms(run: Run, sessions: Sequence[Any], names: list[str], length: int) -> tuple[float, float]:
    """CPU milliseconds per run of both graphs: the median of rounds in turn, so that other load affects both alike."""
    rng = np.random.default_rng(run.recipe.training.seed)
    requests = [request(run.encoding.schema, run.kept_rows, SPEED_CANDIDATES, length, rng) for _ in range(_REQUESTS)]
    taken: list[list[float]] = [[], []]
    for _ in range(_ROUNDS):
        for times, session in zip(taken, sessions, strict=True):
            times.append(_seconds(session, names, requests) / _RUNS * 1000)
    return statistics.median(taken[0]), statistics.median(taken[1])


def _seconds(session: Any, names: list[str], requests: Sequence[Inputs]) -> float:
    started = time.process_time()
    for i in range(_RUNS):
        session.run(names, requests[i % len(requests)])
    return time.process_time() - started
