"""Measures the cost of a ranking with several networks in one graph, and of the comparison within a request.

`python -m bench.ensembles RUN` builds graphs of the run's recipe with 1, 3 and 5 members and prints CPU times.
"""

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from bench.contenders.raw import Inputs, run_seconds
from bench.measuring.measure import Contender, in_turn
from export.graph import ServingGraph, to_onnx
from export.requests import request
from features.within_request import ComparedColumns, within_request
from models.network.build import build_ensemble
from models.training.run import Run, open_run
from service.bundle.loading import open_session

MEMBERS = (1, 3, 5)
CANDIDATES = (20, 200)
_REQUESTS = 16
_ROUNDS = 7
_ROUND_SECONDS = 0.15


def costs(run: Run, candidates: int) -> dict[str, float]:
    """CPU milliseconds per ranking by contender: each number of members, and the comparison by itself."""
    schema = run.encoding.schema
    length = schema.behaviour.max_length if schema.behaviour else 0
    rng = np.random.default_rng(0)
    requests: list[Inputs] = [request(schema, run.kept_rows, candidates, length, rng) for _ in range(_REQUESTS)]
    contenders: dict[str, Contender] = {}
    for members in MEMBERS:
        training = run.recipe.training.model_copy(update={"ensemble": members})
        recipe = run.recipe.model_copy(update={"training": training, "calibration": None})
        # Any weights will do, because they do not change the cost.
        model = build_ensemble(recipe, run.encoding, run.ranker.position.cross_values if run.ranker.position else 0)
        graph = to_onnx(ServingGraph(model.eval(), run.encoding), run.encoding)
        session = open_session(graph.SerializeToString(), 1)
        contenders[f"{members} members"] = partial(run_seconds, session, list(model.score_names), requests)
    compared = ComparedColumns.of(schema)
    if len(compared):
        contenders[f"comparison of {len(compared)} features"] = partial(_compare_seconds, compared, requests)
    return in_turn(contenders, _ROUNDS, _ROUND_SECONDS)


def _compare_seconds(compared: ComparedColumns, requests: list[Inputs], times: int) -> float:
    started = time.process_time()
    for i in range(times):
        within_request(compared, requests[i % len(requests)]["item_numerics"])
    return time.process_time() - started


def main() -> int:
    """Print a table for the run that the command line names."""
    run = open_run(Path(sys.argv[1]))
    for candidates in CANDIDATES:
        for name, ms in costs(run, candidates).items():
            print(f"{candidates:>4} candidates  {name:<28} {ms:.3f} ms CPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
