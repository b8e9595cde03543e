"""Creates redis-py's clients for one Redis or for a cluster, depending on the URL. Rankings read by other means.

A cluster's client replaces that of one Redis here. It has the same commands, except that MGET over several keys and
EVALSHA in a pipeline do not work on it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import redis.asyncio
from redis import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry as BlockingRetry

from service.addresses.redis_url import RedisAddress, address_of
from service.store.redis.node_batches import ask_nodes

Call = tuple[Sequence[str], Sequence[int | bytes]]  # the keys and the arguments of a script
REDIS_ERRORS = (RedisError, RedisClusterException, OSError)


def client(url: str, timeout_seconds: float) -> "Redis":
    """Return a client whose commands wait no longer than this. Raises RedisError if no node of a cluster answers.

    Raises ValueError for a URL that cannot be used.
    """
    address = address_of(url)
    options = address.options() | {"socket_timeout": timeout_seconds}
    if not address.is_cluster:
        # Otherwise the client would try for seconds to reach a Redis that is away.
        return Redis(**_place(address), **options, retry=BlockingRetry(NoBackoff(), 0))
    nodes = [ClusterNode(*node) for node in address.nodes]  # type: ignore[no-untyped-call]
    try:
        return cast("Redis", RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options))
    except RedisClusterException as error:  # no RedisError, and raised by the constructor, which asks for the nodes
        raise RedisError(str(error)) from None


def async_client(url: str, timeout_seconds: float) -> redis.asyncio.Redis:
    """Return the asyncio client; a command whose connection fails is tried once more."""
    address = address_of(url)
    options = address.options() | {
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "retry": Retry(NoBackoff(), 1),
    }
    if not address.is_cluster:
        return redis.asyncio.Redis(**_place(address), **options)
    nodes = [AsyncClusterNode(*node) for node in address.nodes]
    cluster = redis.asyncio.RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options)
    return cast(redis.asyncio.Redis, cluster)


def _place(address: RedisAddress) -> dict[str, Any]:
    if address.path:
        return {"unix_socket_path": address.path}
    host, port = address.nodes[0]
    return {"host": host, "port": port}


def values_of(redis: "Redis", keys: Sequence[str]) -> list[bytes | None]:
    """Return the values of keys; None for a key without a value, or with one of another type."""
    if is_cluster(redis):
        return [value for (value,) in ask_nodes(redis, keys, [("MGET", key) for key in keys])]
    values: Any = redis.mget(keys)
    return list(values)


def set_values(redis: "Redis", values: Mapping[str, bytes], lifetime_ms: int = 0) -> None:
    """Set the keys to these values, which expire after `lifetime_ms` (0: never)."""
    expiry: tuple[str | int, ...] = ("PX", lifetime_ms) if lifetime_ms else ()
    if is_cluster(redis):
        ask_nodes(redis, list(values), [("SET", key, value, *expiry) for key, value in values.items()])
    elif lifetime_ms:
        with redis.pipeline(transaction=False) as pipeline:
            for key, value in values.items():
                pipeline.set(key, value, px=lifetime_ms)
            pipeline.execute()
    else:
        redis.mset(values)


def run_script(redis: "Redis", script: str, calls: Sequence[Call]) -> None:
    """Run a script once per call; the keys of a call share a slot. Each node gets the text of the script once."""
    sha1 = redis.script_load(script)  # of a cluster: on every primary
    commands = [("EVALSHA", sha1, len(keys), *keys, *arguments) for keys, arguments in calls]
    if is_cluster(redis):
        # A node that has just become a primary may lack the script.
        ask_nodes(redis, [keys[0] for keys, _ in calls], commands, lambda command: ("EVAL", script, *command[2:]))
        return
    with redis.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
        pipeline.execute()


def is_cluster(redis: "Redis") -> bool:
    """Return whether this is a cluster's client."""
    return isinstance(cast(object, redis), RedisCluster)
