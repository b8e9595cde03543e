"""Variants that the service does not offer, measured to justify its defaults.

ONNX Runtime's threads spin while idle, or scoring runs in a thread of its own instead of in the event loop.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime as ort
from starlette.types import ASGIApp

from service.bundle.loading import Bundle
from service.ranking.ranker import Ranker, RankingRun
from service.ranking.scoring.chunks import Scored

VARIANT = "BENCH_VARIANT"
NAMES = ("event loop", "thread", "spinning")


class ThreadedRanker(Ranker):
    """Scores in a thread: the event loop continues, at the cost of two switches of the interpreter lock."""

    async def _score(
        self,
        run: RankingRun,
        bundle: Bundle,
        inputs: Mapping[str, np.ndarray],
        candidates: int,
        places: np.ndarray | None = None,
        vectors: Sequence[str] = (),
    ) -> Scored:
        loop = asyncio.get_running_loop()
        return Scored(await loop.run_in_executor(_POOL, bundle.score, bundle.graph_inputs(inputs)), 0.0, failed=False)


_POOL = ThreadPoolExecutor(1, thread_name_prefix="score")


class _SpinningOptions(ort.SessionOptions):  # type: ignore[misc]
    """Session options whose threads always spin."""

    def add_session_config_entry(self, key: str, value: str) -> None:
        super().add_session_config_entry(key, "1" if key.endswith("allow_spinning") else value)


def create_app() -> ASGIApp:
    """The service in the variant that the environment names."""
    from service.server.app import from_environment

    varied: dict[str, tuple[str, Any]] = {
        "thread": ("service.server.app.Ranker", ThreadedRanker),
        "spinning": ("onnxruntime.SessionOptions", _SpinningOptions),
    }
    variant = varied.get(os.environ[VARIANT])
    if variant is not None:
        patch(*variant).start()
    return from_environment()
