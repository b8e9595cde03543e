"""The limit: ONNX Runtime alone, in this process, on the service's inputs for the same requests."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.inputs.store import NOW_MS
from bench.inputs.workload import RequestSet
from features import RowLayout
from features.layouts import Layouts
from features.within_request import INPUT, within_request
from service.bundle.loading import open_session
from service.bundle.manifest import GRAPH_FILE, Manifest
from service.bundle.verify import read_manifest
from service.ranking.inputs.assemble import assemble, pack_raw
from service.store.opening import open_store

Inputs = dict[str, np.ndarray]
CONTEXT: dict[str, object] = {"tab": 1, "hour": 20}


class Raw:
    """One bundle's graph, with the session options of the service."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.manifest: Manifest = read_manifest(folder)
        self.layouts = Layouts.of(self.manifest.feature_schema)
        self.session = open_session((folder / GRAPH_FILE).read_bytes(), 1)
        self._redis_url = redis_url

    def inputs_of(self, load: RequestSet) -> list[Inputs]:
        """The graph's inputs for the requests of a load."""
        names = {i.name for i in self.manifest.inputs}
        context = pack_raw(RowLayout(self.manifest.feature_schema.context), CONTEXT, "context")

        async def fetched() -> list[Inputs]:
            reader = open_store(self._redis_url, 5000)
            made = []
            for user, ids in zip(load.users, load.item_ids, strict=True):
                stored = await reader.fetch(self.layouts, user, ids, 5.0)
                inputs = assemble(self.layouts, stored, stored.items, user, context, NOW_MS).inputs
                inputs[INPUT] = within_request(self.layouts.compared, inputs["item_numerics"])
                made.append({name: np.array(values) for name, values in inputs.items() if name in names})
            reader.close()
            return made

        return asyncio.run(fetched())

    def cpu_seconds(self, inputs: Sequence[Inputs], requests: int) -> float:
        """CPU seconds of this process for `requests` runs; the inputs take turns."""
        return run_seconds(self.session, list(self.manifest.task_names), inputs, requests)


def run_seconds(session: object, outputs: list[str], inputs: Sequence[Inputs], requests: int) -> float:
    run = session.run  # type: ignore[attr-defined]
    started = time.process_time()
    for i in range(requests):
        run(outputs, inputs[i % len(inputs)])
    return time.process_time() - started
