"""A ranking server on plain FastAPI, written in the usual way, for the same model and the same data.

Requests and responses are pydantic objects. Rows are JSON in Redis, read with GET and MGET by redis-py's asyncio
client. Python code collects the features of each candidate and returns a list of objects. Nothing in it is slow on
purpose: its rows have ready keys, so that it hashes nothing; its session has the service's options; and it reads users,
behaviours and items at the same time.
"""

import asyncio
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import redis.asyncio
from fastapi import FastAPI
from pydantic import BaseModel

from features import RowLayout
from features.layouts import Layouts
from service.bundle.loading import open_session
from service.bundle.manifest import GRAPH_FILE
from service.bundle.verify import read_manifest

BUNDLE = "BENCH_BUNDLE"
REDIS = "BENCH_REDIS"


class PeerRequest(BaseModel):
    user_id: str
    candidates: list[str]
    context: dict[str, int | str | float] = {}
    timestamp: int


class RankedItem(BaseModel):
    item_id: str
    rank: int
    score: float
    predictions: dict[str, float]


class PeerResponse(BaseModel):
    ranking: list[RankedItem]


def feature_row(layout: RowLayout, row: dict[str, Any]) -> tuple[list[int], list[float]]:
    """Return one entity's keys and numbers in the order of the graph."""
    keys: list[int] = []
    for name, columns in layout.key_columns.items():
        width = columns.stop - columns.start
        value = row.get(name)
        keys += (value or [0] * width) if isinstance(value, list) else [value or 0] * width
    numerics = [math.nan if (value := row.get(name)) is None else value for name in layout.numeric_columns]
    return keys, numerics


def arrays(rows: Sequence[tuple[list[int], list[float]]], name: str) -> dict[str, np.ndarray]:
    keys = np.array([keys for keys, _ in rows], dtype=np.int64)
    return {f"{name}_keys": keys, f"{name}_numerics": np.array([numerics for _, numerics in rows], dtype=np.float32)}


class PeerRanker:
    """Ranks as the usual handler does, whatever framework calls it."""

    def __init__(self) -> None:
        folder = Path(os.environ[BUNDLE])
        manifest = read_manifest(folder)
        self.layouts = Layouts.of(manifest.feature_schema)
        self.tasks = manifest.task_names
        self.session = open_session((folder / GRAPH_FILE).read_bytes(), 1)
        self.store = redis.asyncio.Redis.from_url(os.environ[REDIS])
        self.names = {i.name for i in manifest.inputs}
        self.context_row = RowLayout(manifest.feature_schema.context)

    async def rank(self, request: PeerRequest) -> PeerResponse:
        # Read the user, the behaviours and the items.
        layouts = self.layouts
        user, history, items = await asyncio.gather(
            self.store.get(f"user:{request.user_id}"),
            self.store.get(f"history:{request.user_id}"),
            self.store.mget([f"item:{item_id}" for item_id in request.candidates]),
        )
        # Unknown users and items are ranked with empty features.
        user_row = feature_row(layouts.user, json.loads(user) if user else {})
        item_rows = [feature_row(layouts.item, json.loads(item) if item else {}) for item in items]
        packed = self.context_row.rows(self.context_row.pack(request.context))[0]
        context_values = (packed["keys"].tolist(), packed["numerics"].tolist())
        inputs = arrays([user_row], "user") | arrays([context_values], "context") | arrays(item_rows, "item")
        inputs |= self._behaviour_inputs(json.loads(history) if history else [], request.timestamp)
        # Score all candidates in one run, and order them by the sum of the tasks.
        outputs = self.session.run(self.tasks, {name: array for name, array in inputs.items() if name in self.names})
        predictions = dict(zip(self.tasks, outputs, strict=True))
        scored = []
        for i, item_id in enumerate(request.candidates):
            of_item = {task: float(scores[i]) for task, scores in predictions.items()}
            scored.append((sum(of_item.values()), item_id, of_item))
        scored.sort(key=lambda entry: entry[0], reverse=True)
        return PeerResponse(
            ranking=[
                RankedItem(item_id=i, rank=place, score=score, predictions=p)
                for place, (score, i, p) in enumerate(scored, start=1)
            ]
        )

    def _behaviour_inputs(self, history: list[dict[str, Any]], now: int) -> dict[str, np.ndarray]:
        layouts = self.layouts
        if layouts.behaviour is None:
            return {}
        newest = history[: layouts.max_behaviours]
        rows = [(entry["keys"], feature_row(layouts.behaviour, entry)[1]) for entry in newest]
        inputs = arrays(rows, "behaviour")
        inputs["behaviour_keys"] = inputs["behaviour_keys"].reshape(len(rows), layouts.behaviour.key_width)
        inputs["behaviour_times"] = np.array([entry["time"] for entry in newest], dtype=np.int64)
        inputs["request_time"] = np.array([now], dtype=np.int64)
        return inputs


def create_app() -> FastAPI:
    ranker = PeerRanker()
    app = FastAPI()

    @app.post("/rank")
    async def rank(request: PeerRequest) -> PeerResponse:
        return await ranker.rank(request)

    return app


def __getattr__(name: str) -> Any:
    """`app` is made when uvicorn asks for it, because it reads the environment."""
    if name != "app":
        raise AttributeError(name)
    return create_app()
