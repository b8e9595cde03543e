"""Measures the cost of a ranking's read with our own Redis connections and with other clients.

Each client sends the same commands for the same keys, to one Redis and to a cluster of three nodes: the user's row, the
newest 50 behaviours, and the rows of the candidates (item cache off) or none of them (every row is in the item cache).

The figures are CPU microseconds of the whole process per read, because a client may work in threads of its own. The
best of several rounds is used. coredis and valkey-glide are measured if they are installed. The service needs neither.
"""

import importlib.util
import runpy
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import redis.asyncio
import uvloop
from redis.asyncio.cluster import ClusterNode

from bench.measuring.redis_cluster import RedisCluster, redis_cluster
from service.addresses.redis_url import address_of
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.reading.cluster.asking import ask
from service.store.redis.reading.cluster.topology import Topology
from service.store.redis.reading.wire import Wire, packed

Read = Callable[[str, str, Sequence[str]], Awaitable[Sequence[Any]]]
Client = Callable[[str], AbstractAsyncContextManager[Read]]
_USERS = 64
_BEHAVIOURS = 50
_ROW_BYTES = 128
_ROUNDS = 5
_READS = 200


def keys_of(place: int, candidates: int) -> tuple[str, str, list[str]]:
    """The keys of one read: user row, behaviours, item rows. The hash tag puts the keys of one user into one slot."""
    first = place * 7
    return f"u:{{{place}}}", f"s:{{{place}}}", [f"i:{i}" for i in range(first, first + candidates)]


def fill(client: Any, candidates: int) -> None:
    for place in range(_USERS):
        user, behaviours, _ = keys_of(place, 0)
        client.set(user, bytes(_ROW_BYTES))
        client.zadd(behaviours, {i.to_bytes(8, "big") + bytes(_ROW_BYTES): i for i in range(_BEHAVIOURS)})
    for item in range(_USERS * 7 + candidates):
        client.set(f"i:{item}", bytes(_ROW_BYTES))


@asynccontextmanager
async def own_single(url: str) -> AsyncIterator[Read]:
    wire = Wire(address_of(url))

    async def read(user: str, behaviours: str, items: Sequence[str]) -> Sequence[Any]:
        commands = packed("GET", user) + packed("ZREVRANGE", behaviours, "0", str(_BEHAVIOURS - 1))
        if items:
            commands += packed("MGET", *items)
        replies: list[Any] = await wire.ask(commands, 3 if items else 2, 5)
        return replies

    yield read
    wire.close()


@asynccontextmanager
async def redis_py_single(url: str) -> AsyncIterator[Read]:
    async with redis.asyncio.Redis.from_url(url) as client:

        async def read(user: str, behaviours: str, items: Sequence[str]) -> Sequence[Any]:
            async with client.pipeline(transaction=False) as pipeline:
                pipeline.get(user)
                pipeline.zrevrange(behaviours, 0, _BEHAVIOURS - 1)
                if items:
                    pipeline.mget(items)
                return list(await pipeline.execute())

        yield read


@asynccontextmanager
async def own_cluster(url: str) -> AsyncIterator[Read]:
    topology = Topology(address_of(url), None)

    async def read(user: str, behaviours: str, items: Sequence[str]) -> Sequence[Any]:
        await topology.connect(5)
        commands = [
            (user.encode(), packed("GET", user)),
            (behaviours.encode(), packed("ZREVRANGE", behaviours, "0", str(_BEHAVIOURS - 1))),
        ]
        for item in items:
            key = item.encode()
            commands.append((key, b"*2\r\n$4\r\nMGET\r\n$%d\r\n%b\r\n" % (len(key), key)))
        replies = (await ask(topology, commands, 5, everywhere=True)).replies
        return [*replies[:2], [row for (row,) in replies[2:]]]

    yield read
    topology.close()


@asynccontextmanager
async def redis_py_cluster(url: str) -> AsyncIterator[Read]:
    nodes = [ClusterNode(host, port) for host, port in address_of(url).nodes]
    async with redis.asyncio.RedisCluster(startup_nodes=nodes, require_full_coverage=False) as client:

        async def read(user: str, behaviours: str, items: Sequence[str]) -> Sequence[Any]:
            pipeline = client.pipeline()
            pipeline.get(user)
            pipeline.zrevrange(behaviours, 0, _BEHAVIOURS - 1)
            for item in items:
                pipeline.get(item)
            replies = await pipeline.execute()
            return [*replies[:2], replies[2:]]

        yield read


@asynccontextmanager
async def coredis_cluster(url: str) -> AsyncIterator[Read]:
    import coredis  # type: ignore[import-not-found]

    async with coredis.RedisCluster(*address_of(url).nodes[0]) as client:

        async def read(user: str, behaviours: str, items: Sequence[str]) -> Sequence[Any]:
            async with client.pipeline(transaction=False) as pipeline:
                asked = [pipeline.get(user), pipeline.zrevrange(behaviours, 0, _BEHAVIOURS - 1)]
                asked += [pipeline.get(item) for item in items]
            replies = [await reply for reply in asked]
            return [*replies[:2], replies[2:]]

        yield read


@asynccontextmanager
async def glide(url: str) -> AsyncIterator[Read]:
    import glide as library  # type: ignore[import-not-found]

    # The cluster has separate client classes.
    address = address_of(url)
    kind = "Cluster" if address.is_cluster else ""
    node = library.NodeAddress(*address.nodes[0])
    configuration = getattr(library, f"Glide{kind}ClientConfiguration")([node], request_timeout=5000)
    client = await getattr(library, f"Glide{kind}Client").create(configuration)
    new_batch = getattr(library, f"{kind}Batch")

    async def read(user: str, behaviours: str, items: Sequence[str]) -> Sequence[Any]:
        batch = new_batch(is_atomic=False)
        batch.get(user)
        batch.custom_command(["ZREVRANGE", behaviours, "0", str(_BEHAVIOURS - 1)])
        if items:
            batch.mget(items)  # valkey-glide spreads it over the slots by itself
        return list(await client.exec(batch, raise_on_error=True))

    yield read
    await client.close()


CLIENTS: dict[str, dict[str, tuple[str | None, Client]]] = {
    "one Redis": {
        "own wire": (None, own_single),
        "redis-py": (None, redis_py_single),
        "valkey-glide": ("glide", glide),
    },
    "cluster of three": {
        "own client": (None, own_cluster),
        "redis-py": (None, redis_py_cluster),
        "coredis": ("coredis", coredis_cluster),
        "valkey-glide": ("glide", glide),
    },
}


async def cost_us(client: Client, url: str, candidates: int) -> float:
    """CPU microseconds of this process per read, the best of several rounds."""
    requests = [keys_of(place, candidates) for place in range(_USERS)] * (_READS // _USERS + 1)
    rounds = []
    async with client(url) as read:
        user, behaviours, items = await read(*keys_of(0, 200))
        assert (len(user), len(behaviours), len(items)) == (_ROW_BYTES, _BEHAVIOURS, 200), "these are other rows"
        for _ in range(_ROUNDS):
            started = time.process_time()
            for keys in requests:
                await read(*keys)
            rounds.append((time.process_time() - started) / len(requests))
    return min(rounds) * 1e6


def report(urls: dict[str, str], candidates: int) -> None:
    print(f"{'':<18}{'':<14}{f'cache off, {candidates} candidates':>28}{'all rows in the cache':>24}")
    for store, clients in CLIENTS.items():
        for name, (package, client) in clients.items():
            if package is not None and importlib.util.find_spec(package) is None:
                print(f"{store:<18}{name:<14}{'not installed':>28}")
                continue
            off, on = (uvloop.run(cost_us(client, urls[store], n)) for n in (candidates, 0))
            print(f"{store:<18}{name:<14}{off:>25.0f} us{on:>21.0f} us", flush=True)


def filled(cluster: RedisCluster, candidates: int) -> str:
    with redis.RedisCluster(*address_of(cluster.url).nodes[0]) as client:
        fill(client, candidates)
    return cluster.url


def compare_clients(candidates: int) -> None:
    """Measure every client in turn and print the table; `candidates` item rows per read with the cache off."""
    with EmbeddedRedis() as single, redis_cluster() as cluster, redis.Redis.from_url(single.url) as client:
        fill(client, candidates)
        report({"one Redis": single.url, "cluster of three": filled(cluster, candidates)}, candidates)


if __name__ == "__main__":  # `python -m bench.store_clients` is `funnelrank bench-clients`
    sys.argv.insert(1, "bench-clients")
    runpy.run_module("funnelrank", run_name="__main__")
