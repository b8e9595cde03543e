"""Compares the exported graph with the naive export of the same trained model."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bench.contenders.naive import Inputs, Naive, tiled
from bench.contenders.naive import to_onnx as naive_onnx
from bench.contenders.raw import run_seconds
from bench.measuring.measure import in_turn
from export.graph import ServingGraph, to_onnx
from export.requests import request
from models.training.run import open_run
from service.bundle.loading import open_session

_REQUESTS = 32


@dataclass(frozen=True)
class Compared:
    """CPU milliseconds per run of both graphs for one size of request, and their largest difference in any score."""

    candidates: int
    behaviours: int
    graph_ms: float
    naive_ms: float
    difference: float

    @property
    def ratio(self) -> float:
        return self.naive_ms / self.graph_ms


def compare(run_folder: Path, sizes: list[tuple[int, int]], rounds: int, round_seconds: float) -> list[Compared]:
    """Measure both graphs of a run in turn, on the same varied requests.

    Raises AssertionError if their scores differ by more than 1e-5.
    """
    run = open_run(run_folder)
    graph = ServingGraph(run.ranker, run.encoding).eval()
    schema = run.encoding.schema
    outputs = [o.name for o in run.ranker.outputs]
    rng = np.random.default_rng(0)
    # Ours computes the user once per request, the naive one once per candidate.
    session = open_session(to_onnx(graph, run.encoding).SerializeToString(), 1)
    example = tiled(graph, request(schema, run.kept_rows, 7, 11, rng))
    theirs = open_session(naive_onnx(Naive(run.ranker), example, outputs).SerializeToString(), 1)
    compared = []
    for candidates, behaviours in sizes:
        requests: list[Inputs] = [request(schema, run.kept_rows, candidates, behaviours, rng) for _ in range(_REQUESTS)]
        wide = [tiled(graph, r) for r in requests]
        # A comparison of costs needs equal scores.
        pairs = [(session.run(outputs, a), theirs.run(outputs, b)) for a, b in zip(requests[:4], wide[:4], strict=True)]
        difference = max(float(np.abs(x - y).max()) for a, b in pairs for x, y in zip(a, b, strict=True))
        assert difference <= 1e-5, (
            f"the naive graph differs by {difference} with {candidates} candidates and {behaviours} behaviours"
        )
        costs = in_turn(
            {
                "graph": partial(run_seconds, session, outputs, requests),
                "naive": partial(run_seconds, theirs, outputs, wide),
            },
            rounds,
            round_seconds,
        )
        compared.append(Compared(candidates, behaviours, costs["graph"], costs["naive"], difference))
    return compared
