"""The stage table: the service's own steps, called one by one in this process, in CPU microseconds.

The rest of a request's cost is HTTP, the event loop, the sockets, and processor caches that are colder in a server.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.contenders.raw import CONTEXT
from bench.inputs.store import NOW_MS
from bench.inputs.workload import RequestSet
from features.layouts import Layouts
from service.api.body import parse
from service.api.routes.answer import entries
from service.api.routes.rank_bodies import RankRequest
from service.bundle.loading import load_bundle
from service.exposures.log import RecordLog
from service.ranking.exposure import ExposureLog
from service.ranking.inputs.assemble import assemble, pack_raw
from service.ranking.ordering import order
from service.ranking.query import Query, Ranked, Ranking
from service.store.base import StoredRows
from service.store.opening import open_store

_TIMES = 300


def stages(folder: Path, redis_url: str, load: RequestSet) -> dict[str, float]:
    """CPU microseconds per request by stage."""
    bundle = load_bundle(folder, 1, 2000)
    layouts = bundle.layouts
    bodies = load.bodies.read_bytes().splitlines()
    requests = list(zip(load.users, load.item_ids, strict=True))
    context = pack_raw(layouts.context, CONTEXT, "context")
    # Prepare what each stage reads.
    read_us, stored = asyncio.run(_reading(redis_url, bundle.layouts, requests))
    inputs = [
        assemble(layouts, s, s.items, u, context, NOW_MS).inputs for s, (u, _) in zip(stored, requests, strict=True)
    ]
    used = [bundle.graph_inputs(i) for i in inputs]
    predictions = [bundle.score(i) for i in used]
    sums = [p.sum(0) for p in predictions]
    n = len(bodies)
    return {
        "JSON to a checked request": _us(lambda i: parse(RankRequest, bodies[i]), n),
        "context packed": _us(lambda i: pack_raw(layouts.context, CONTEXT, "context"), n),
        "user, behaviours, items fetched": read_us,
        "arrays assembled": _us(
            lambda i: assemble(layouts, stored[i], stored[i].items, requests[i][0], context, NOW_MS), n
        ),
        "scored by ONNX Runtime": _us(lambda i: bundle.score(used[i]), n),
        "ordered": _us(lambda i: order(sums[i], len(sums[i]), None), n),
        "passed to the exposure log": _handing_over(requests),
        "answer written": _us(lambda i: _written(requests[i][1], sums[i], predictions[i]), n),
    }


def _written(ids: list[str], scores: np.ndarray, predictions: np.ndarray) -> bytes:
    return entries(Ranked(ids, scores, predictions), [f"task {row}" for row in range(len(predictions))])


def _handing_over(requests: list[tuple[str, list[str]]]) -> float:
    """The cost of the exposure log for the event loop. Packing and writing happen in a thread."""
    # The thread is not started, so this process's CPU time is only that of passing records on.
    exposures = ExposureLog(RecordLog(_Nowhere()), share=1.0)
    queries = [Query(user, ids) for user, ids in requests]
    ranking = Ranking(Any, Any, None, Any, ())  # type: ignore[arg-type] # referred to, and not read
    return _us(lambda i: exposures.ranked("0123456789abcdef", queries[i], ranking), len(requests))


class _Nowhere:
    """A sink that is not used."""

    def write(self, kind: str, records: list[Any]) -> None: ...

    def tend(self) -> None: ...

    def close(self) -> None: ...


def _us(work: Callable[[int], object], n: int) -> float:
    started = time.process_time()
    for i in range(_TIMES):
        work(i % n)
    return (time.process_time() - started) / _TIMES * 1e6


async def _reading(
    redis_url: str, layouts: Layouts, requests: list[tuple[str, list[str]]]
) -> tuple[float, list[StoredRows]]:
    reader = open_store(redis_url, 5000, 64 << 20)
    for user, ids in requests:  # into the cache
        await reader.fetch(layouts, user, ids, 5.0)
    stored = [await reader.fetch(layouts, user, ids, 5.0) for user, ids in requests]
    started = time.process_time()
    for i in range(_TIMES):
        await reader.fetch(layouts, *requests[i % len(requests)], 5.0)
    spent = (time.process_time() - started) / _TIMES * 1e6
    reader.close()
    return spent, stored
