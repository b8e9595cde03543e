"""A real Redis Cluster on loopback: one redis-server process per node, with moves of slots."""

import contextlib
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import redis
from redis.crc import key_slot

from service.sample.embedded_redis import EmbeddedRedis

SLOTS = 16384
_BUS = 10_000  # a node's bus listens so much above its port
_NODE_TIMEOUT_MS = "1000"


def node_port() -> int:
    """A port that is free together with its bus port, both below the ports of outgoing connections."""
    while True:
        port = random.randrange(10_000, 22_768)  # nosec B311
        with contextlib.suppress(OSError), socket.socket() as own, socket.socket() as bus:
            own.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + _BUS))
            return port


class ClusterNode(EmbeddedRedis):
    """One node, with the operations that tests and benchmarks need."""

    def __init__(self, *options: str) -> None:
        own = (
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            _NODE_TIMEOUT_MS,
            "--cluster-require-full-coverage",
            "no",
        )
        super().__init__(*own, *options, port=node_port())

    def ask(self, *command: Any) -> Any:
        with redis.Redis(port=self.port, socket_timeout=10) as client:
            return client.execute_command(*command)

    def info(self) -> dict[str, str]:
        text = self.ask("CLUSTER INFO")
        return dict(text) if isinstance(text, dict) else dict(line.split(":", 1) for line in text.decode().split())

    @property
    def id(self) -> str:
        node_id = self.ask("CLUSTER MYID")
        return node_id.decode() if isinstance(node_id, bytes) else str(node_id)


class RedisCluster:
    """`nodes` are the primaries, each with an equal share of the slots."""

    def __init__(self, nodes: list[ClusterNode]) -> None:
        self.nodes = nodes
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes) + "/"

    def owner(self, key: str) -> ClusterNode:
        """The node that had this key's slot at the start."""
        return self.nodes[key_slot(key.encode()) * len(self.nodes) // SLOTS]

    def join(self) -> None:
        for place, node in enumerate(self.nodes):
            slots = [slot for slot in range(SLOTS) if slot * len(self.nodes) // SLOTS == place]
            node.ask("CLUSTER ADDSLOTS", *slots)
            node.ask("CLUSTER SET-CONFIG-EPOCH", place + 1)
        for node in self.nodes[1:]:
            node.ask("CLUSTER MEET", "127.0.0.1", self.nodes[0].port)
        wait_for(lambda: all(self._knows_all(node) for node in self.nodes))

    def _knows_all(self, node: ClusterNode) -> bool:
        info = node.info()
        return (
            info["cluster_state"] == "ok"
            and info["cluster_slots_assigned"] == str(SLOTS)
            and int(info["cluster_known_nodes"]) >= len(self.nodes)
        )

    @contextmanager
    def replica_of(self, primary: ClusterNode, *options: str) -> Iterator[ClusterNode]:
        """Start one more node, which takes over when its primary fails."""
        with ClusterNode(*options) as replica:
            replica.ask("CLUSTER MEET", "127.0.0.1", primary.port)
            wait_for(lambda: int(replica.info()["cluster_known_nodes"]) > len(self.nodes))
            wait_for(lambda: replica.ask("CLUSTER REPLICATE", primary.id) in (b"OK", True))
            wait_for(lambda: replica.ask("INFO", "replication")["master_link_status"] == "up")
            yield replica

    def move(
        self, slot: int, source: ClusterNode, target: ClusterNode, halfway: Callable[[], object] | None = None
    ) -> None:
        """Move a slot and its keys to another node.

        `halfway` is called when the keys have moved and the slot has not.
        """
        target.ask("CLUSTER SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER SETSLOT", slot, "MIGRATING", target.id)
        while keys := source.ask("CLUSTER GETKEYSINSLOT", slot, 100):
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        if halfway is not None:
            halfway()
        for node in (target, source, *self.nodes):
            node.ask("CLUSTER SETSLOT", slot, "NODE", target.id)


@contextmanager
def redis_cluster(*options: str, nodes: int = 3) -> Iterator[RedisCluster]:
    with ExitStack() as started:
        cluster = RedisCluster([started.enter_context(ClusterNode(*options)) for _ in range(nodes)])
        cluster.join()
        yield cluster


def wait_for(holds: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a condition holds. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(redis.exceptions.ResponseError):
            if holds():
                return
        if time.monotonic() >= end:
            raise TimeoutError("it did not come about")
        time.sleep(0.02)
