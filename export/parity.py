"""Checks that the ONNX graph scores as torch does, over a grid of sizes and on unknown ids."""

from collections.abc import Mapping

import numpy as np
import torch

from export.graph import ServingGraph
from export.requests import Inputs, request
from features import FeatureSchema
from features.statistics import relative_difference
from service.bundle.loading import open_session
from service.bundle.manifest import Parity
from service.bundle.tables import Tables

CANDIDATES = (1, 2, 7, 64, 257, 1000)
BEHAVIOURS = (0, 1, 2, 17, 50)
LONG_CANDIDATES = 64  # the most beside more behaviours than the grid has: pairs of both may take gigabytes
TOLERANCE = 1e-5


class ParityError(RuntimeError):
    """The graph and the trained model disagree, or one of them gives a number that is not finite."""


def torch_scores(graph: ServingGraph, inputs: Inputs) -> dict[str, np.ndarray]:
    """Task scores `[C]` and the other outputs by name, computed by torch."""
    with torch.no_grad():
        scores = graph({name: torch.from_numpy(values) for name, values in inputs.items()})
    return {name: score.numpy() for name, score in scores.items()}


def check_parity(
    graph: ServingGraph,
    model: bytes,
    schema: FeatureSchema,
    rows: Mapping[str, np.ndarray],
    seed: int,
    tables: Tables | None = None,
) -> Parity:
    """Compare every output at every size of the grid; for numbers beyond 1, the difference is relative.

    A schema with longer sequences than the grid's is compared at their length too, with up to LONG_CANDIDATES.
    `tables`: the tensors that lie beside the graph.

    Raises ParityError with the output and the size of the first difference over the tolerance.
    """
    session = open_session(model, 0, tables)
    names = [o.name for o in session.get_outputs()]
    behaviours = lengths_of(schema)
    rng = np.random.default_rng(seed)
    worst = 0.0
    for c in CANDIDATES:
        for n in behaviours:
            if n > BEHAVIOURS[-1] and c > LONG_CANDIDATES:
                continue
            inputs = request(schema, rows, c, n, rng)
            expected = torch_scores(graph, inputs)
            for name, got in zip(names, session.run(names, inputs), strict=True):
                worst = max(worst, _difference(name, got, expected[name], c, n))
    return Parity(candidates=CANDIDATES, behaviours=behaviours, tolerance=TOLERANCE, max_abs_difference=worst)


def lengths_of(schema: FeatureSchema) -> tuple[int, ...]:
    """Return the lengths of behaviour sequences at which a graph of this schema is compared."""
    if schema.behaviour is None:
        return (0,)
    longest = schema.behaviour.max_length
    return BEHAVIOURS if longest <= BEHAVIOURS[-1] else (*BEHAVIOURS, longest)


def _difference(task: str, got: np.ndarray, expected: np.ndarray, candidates: int, behaviours: int) -> float:
    where = f"{task} with {candidates} candidates and {behaviours} behaviours"
    if got.shape != expected.shape:
        raise ParityError(f"{where}: the graph gives the shape {got.shape}, torch {expected.shape}")
    if not (np.isfinite(got).all() and np.isfinite(expected).all()):
        raise ParityError(f"{where}: a score is not finite")
    difference = float(relative_difference(got, expected).max())
    if difference > TOLERANCE:
        raise ParityError(f"{where}: torch and ONNX Runtime differ by {difference:.3g}, more than {TOLERANCE:g}")
    return difference
