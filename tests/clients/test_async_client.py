"""Tests the asynchronous client against a stub; what both clients share is tested with the synchronous one."""

import inspect
import json
import threading
import time
from typing import Any

import pytest
from funnelrank_client import Client, DeadlineExceeded, NoAnswer, Policy, Unavailable
from funnelrank_client.aio import AsyncClient

from tests.clients.conftest import RANKING, Stub, problem

GOOD = (200, {}, json.dumps(RANKING).encode())
QUICK = Policy(first_pause_ms=1, jitter=lambda: 0.0)


def public(kind: type) -> dict[str, Any]:
    methods = {name: method for name, method in inspect.getmembers(kind, inspect.isfunction) if name[0] != "_"}
    return {name: list(inspect.signature(method).parameters) for name, method in methods.items()}


def test_both_clients_have_the_same_calls() -> None:
    assert public(AsyncClient) == public(Client)


async def test_a_ranking_a_repetition_and_a_refusal(stub: Stub) -> None:
    stub.answer = lambda n: problem(503, "overloaded", {"Retry-After": "0.02"}) if n == 1 else GOOD
    async with AsyncClient(stub.url, policy=QUICK) as client:
        ranking = await client.rank("u", ["a"], scene="home")
        assert (ranking.item_ids, len(stub.requests)) == (["a"], 2)
        stub.answer = lambda _: problem(503, "overloaded", {"Retry-After": "30"})
        with pytest.raises(Unavailable):
            await client.rank("u", ["a"])
        assert (await client.rank_or(["p"], "u", ["a"])).item_ids == ["p"]
    assert stub.connections == 1


async def test_a_deadline_and_a_service_that_is_away(stub: Stub) -> None:
    slow = threading.Event()
    stub.answer = lambda _: (slow.wait(20), GOOD)[1]
    async with AsyncClient(stub.url, timeout_ms=100) as client:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await client.rank("u", ["a"])
        assert time.monotonic() - started < 15
        slow.set()
    async with AsyncClient("http://127.0.0.1:9", policy=QUICK) as client:
        with pytest.raises(NoAnswer):
            await client.rank("u", ["a"])
        assert not await client.is_ready()


async def test_a_hedge_takes_the_first_answer(stub: Stub) -> None:
    slow = threading.Event()

    def answer(number: int) -> Any:
        if number == 1:
            slow.wait(20)
        return GOOD

    stub.answer = answer
    async with AsyncClient(stub.url, timeout_ms=20_000, policy=Policy(hedge_after_ms=20)) as client:
        assert (await client.rank("u", ["a"])).item_ids == ["a"]
        assert len(stub.requests) == 2
    slow.set()
