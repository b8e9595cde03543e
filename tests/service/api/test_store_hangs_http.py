"""Tests that a store which hangs takes threads of its own alone: the registry is read and changed meanwhile."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import fresh_http
import httpx

from service.api.routes import store
from service.files import STORE_PLACES
from service.rollout.trials.rule_items import NOT_CHECKED
from service.sample.embedded_redis import EmbeddedRedis

TOKEN = {"Authorization": "Bearer secret"}
CALLERS = 40


def test_readers_of_a_store_that_hangs_hold_up_nobody_who_reads_the_registry(
    tmp_path: Path, registry: Path, kit: SimpleNamespace
) -> None:
    with (
        EmbeddedRedis() as redis,
        kit.serving(tmp_path, registry, redis.url) as server,
        ThreadPoolExecutor(CALLERS) as pool,
    ):

        def stored(user: int) -> httpx.Response:
            return fresh_http.get(f"{server.url}/store/users/{user}", headers=TOKEN, timeout=60)

        assert stored(1).json()["code"] == "not_found"
        os.kill(redis.pid, signal.SIGSTOP)
        try:
            waiting = [pool.submit(stored, user) for user in range(CALLERS)]
            problems = []
            while not all(one.done() for one in waiting):
                problems.append(server.http.get("/models").json().get("problem"))
            rules = {"rules": {"default": [{"type": "block", "item_ids": ["7"]}]}}
            change = server.put("/rules", rules)
        finally:
            os.kill(redis.pid, signal.SIGCONT)
        assert set(problems) == {None}
        assert (change.status_code, change.json()["warnings"]) == (200, [NOT_CHECKED])
        refused = [one.result().json() for one in waiting]
        assert {answer["code"] for answer in refused} == {"store_unavailable"}
        full = f"{STORE_PLACES.most} calls wait already for the feature store"
        assert 0 < sum(full in answer["detail"] for answer in refused) <= CALLERS - STORE_PLACES.most
        kit.wait_until(lambda: stored(1).json()["code"] == "not_found")


def test_one_reader_at_a_time_computes() -> None:
    inside = 0
    most = 0
    together = threading.Barrier(8)

    def work() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        inside -= 1

    def read(_: int) -> None:
        together.wait()
        store._in_turn(work)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(8)))
    assert most == 1
