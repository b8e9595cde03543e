"""Tests commands that are sent to all nodes of a cluster at once: redirections, absent scripts, and refusals."""

from collections.abc import Iterator

import pytest
import redis
from redis.crc import key_slot
from redis_cluster import RedisCluster, redis_cluster

from service.store.redis.clients import client, run_script, set_values, values_of

KEYS = [f"key:{number}" for number in range(300)]
VALUES = {key: f"{key} value".encode() for key in KEYS}
APPEND = "return redis.call('APPEND', KEYS[1], ARGV[1])"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with redis_cluster() as started:
        yield started


@pytest.fixture
def nodes(cluster: RedisCluster) -> Iterator[redis.Redis]:
    """A client that knows the slots as they are at the start of a test."""
    with client(cluster.url, 10) as made:
        made.flushall()
        yield made


def test_values_come_back_in_the_order_of_their_keys(nodes: redis.Redis) -> None:
    set_values(nodes, VALUES)
    asked = [*reversed(KEYS), "absent", *KEYS[:5]]
    assert values_of(nodes, asked) == [VALUES.get(key) for key in asked]


def test_values_expire(nodes: redis.Redis) -> None:
    set_values(nodes, VALUES, lifetime_ms=100_000)
    assert all(90_000 < nodes.pttl(key) <= 100_000 for key in KEYS[:20])


def test_a_slot_that_moves_loses_nothing(cluster: RedisCluster, nodes: redis.Redis) -> None:
    """Halfway, the source asks to ask elsewhere (ASK); later the client's slots are those of before (MOVED)."""
    set_values(nodes, VALUES)
    moved = KEYS[0]
    source = cluster.owner(moved)
    target = next(node for node in cluster.nodes if node is not source)

    def works() -> None:
        run_script(nodes, APPEND, [([key], [b"!"]) for key in KEYS])
        assert values_of(nodes, KEYS) == [VALUES[key] + b"!" for key in KEYS]
        set_values(nodes, VALUES)
        assert values_of(nodes, KEYS) == list(VALUES.values())

    slot = key_slot(moved.encode())
    cluster.move(slot, source, target, halfway=works)
    works()
    cluster.move(slot, target, source)
    works()


def test_a_script_that_a_node_lost_is_sent_to_it(
    cluster: RedisCluster, nodes: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_values(nodes, VALUES)
    load = type(nodes).script_load

    def load_and_lose(self: redis.Redis, script: str) -> object:
        sha1 = load(self, script)
        cluster.nodes[1].ask("SCRIPT", "FLUSH", "SYNC")
        return sha1

    monkeypatch.setattr(type(nodes), "script_load", load_and_lose)
    run_script(nodes, APPEND, [([key], [b"?"]) for key in KEYS])
    assert values_of(nodes, KEYS) == [VALUES[key] + b"?" for key in KEYS]


def test_a_refusal_is_raised_and_leaves_no_reply_behind(nodes: redis.Redis) -> None:
    set_values(nodes, VALUES)
    nodes.delete(KEYS[7])
    nodes.lpush(KEYS[7], "a list")
    for _ in range(3):
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            run_script(nodes, APPEND, [([key], [b""]) for key in KEYS])
        assert values_of(nodes, KEYS[6:]) == [VALUES[KEYS[6]], None, *(VALUES[key] for key in KEYS[8:])]


def test_a_node_that_dies_is_an_error_and_no_other_reply(nodes: redis.Redis) -> None:
    with redis_cluster() as cluster, client(cluster.url, 2) as of_cluster:
        set_values(of_cluster, VALUES)
        cluster.nodes[1].kill()
        with pytest.raises(redis.RedisError):
            values_of(of_cluster, KEYS)
        here = [key for key in KEYS if cluster.owner(key) is not cluster.nodes[1]]
        assert values_of(of_cluster, here) == [VALUES[key] for key in here]
