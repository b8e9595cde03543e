"""The plain ranking server as a deployment of Ray Serve with one replica.

The driver, Ray's own processes, the proxy and the replica are one process tree. Ray Serve is in no requirements file of
this project.
"""

import signal
import threading
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve

from bench.contenders.peer import PeerRanker, PeerRequest, PeerResponse

_OBJECT_STORE_BYTES = 100_000_000
api = FastAPI()


@serve.deployment(num_replicas=1, max_ongoing_requests=100, ray_actor_options={"num_cpus": 0})
@serve.ingress(api)
class ServeRanker:
    def __init__(self) -> None:
        self.ranker = PeerRanker()

    @api.post("/rank")
    async def rank(self, request: PeerRequest) -> PeerResponse:
        return await self.ranker.rank(request)


def main(port: int) -> None:
    """Serve until SIGTERM."""
    bound: Any = ServeRanker
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(bound.bind(), route_prefix="/", logging_config={"enable_access_log": False, "log_level": "WARNING"})
    ended.wait()
    serve.shutdown()
    ray.shutdown()
