"""Tests fairness: abandoned requests are dropped, long lists are scored in chunks, a full worker refuses."""

import asyncio
import json
import socket
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import fresh_http
import numpy as np
import pytest
import redis

from service.metrics.metrics import Metrics
from service.ranking.deadline import Deadline
from service.ranking.query import Query
from service.ranking.ranker import Ranker
from service.rollout.following.follower import Follower
from service.sample.embedded_redis import EmbeddedRedis
from service.settings import Settings
from service.store.opening import open_store


def test_a_request_whose_caller_left_is_dropped(tmp_path: Path, registry: Path, kit: SimpleNamespace) -> None:
    with (
        EmbeddedRedis() as own,
        kit.serving(tmp_path, registry, own.url, redis_timeout_ms=30_000, default_timeout_ms=60_000) as server,
    ):
        subprocess.run(["kill", "-STOP", str(own.pid)], check=True)
        body = json.dumps({"user_id": "1", "candidates": ["1"]}).encode()
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as caller:
            head = f"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            caller.sendall(head.encode() + body)
            kit.wait_until(lambda: "funnelrank_inflight_requests 1.0" in server.http.get("/metrics").text)
            # A reset, because after an orderly close the client may still wait for its answer.
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        subprocess.run(["kill", "-CONT", str(own.pid)], check=True)
        client_gone = 'funnelrank_requests_total{outcome="client_gone",route="/rank"} 1.0'
        kit.wait_until(lambda: client_gone in server.http.get("/metrics").text)
        page = server.http.get("/metrics").text
        assert 'funnelrank_stage_duration_seconds_count{stage="assemble"} 1.0' in page
        assert 'funnelrank_stage_duration_seconds_count{stage="score"} 0.0' in page
        assert server.rank(["1"]).status_code == 200


@pytest.fixture
async def ranker(registry: Path, redis_server: EmbeddedRedis, store: redis.Redis) -> AsyncIterator[Ranker]:
    metrics = Metrics()
    with closing(open_store(redis_server.url, 20_000)) as reader:
        yield Ranker(Follower(Settings(registry=registry), None, reader, metrics), reader, metrics, chunk=10)


def query(count: int) -> Query:
    return Query("712", [str(i) for i in range(count)])


async def test_a_short_list_is_ranked_while_a_long_one_is_in_work(ranker: Ranker) -> None:
    await ranker.follower.step()
    finished: list[int] = []

    async def rank(count: int) -> None:
        finished.append((await ranker.rank(query(count), Deadline(60_000))).computation.coverage[0])

    await asyncio.gather(rank(20_000), *(rank(5) for _ in range(3)))
    assert finished == [5, 5, 5, 20_000]


async def test_chunks_score_like_the_whole_list(ranker: Ranker) -> None:
    await ranker.follower.step()
    whole = Ranker(ranker.follower, ranker.reader, ranker.metrics, chunk=1000)
    rankings = [await r.rank(query(57), Deadline(60_000)) for r in (ranker, whole)]
    assert rankings[0].ranked.item_ids == rankings[1].ranked.item_ids
    assert np.allclose(rankings[0].ranked.predictions, rankings[1].ranked.predictions, atol=1e-6)


def test_a_refused_request_has_retry_after(tmp_path: Path, registry: Path, kit: SimpleNamespace) -> None:
    with (
        EmbeddedRedis() as own,
        kit.serving(
            tmp_path, registry, own.url, max_inflight=1, redis_timeout_ms=30_000, default_timeout_ms=60_000
        ) as server,
    ):
        subprocess.run(["kill", "-STOP", str(own.pid)], check=True)
        try:
            with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as caller:
                caller.sendall(
                    b'POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: 34\r\n\r\n{"user_id":"1","candidates":["1"]}'
                )
                kit.wait_until(lambda: "funnelrank_inflight_requests 1.0" in server.http.get("/metrics").text)
                shed = fresh_http.post(f"{server.url}/rank", json={"user_id": "1", "candidates": ["1"]})
        finally:
            subprocess.run(["kill", "-CONT", str(own.pid)], check=True)
        assert (shed.status_code, shed.json()["code"], shed.headers["retry-after"]) == (503, "overloaded", "1")
