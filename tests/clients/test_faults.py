"""Tests the Python clients with odd answers, broken connections, slow answers and records that JSON cannot hold."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from funnelrank_client import (
    BadRequest,
    Client,
    DeadlineExceeded,
    Event,
    EventSender,
    Impression,
    ImpressionSender,
    NoAnswer,
    Policy,
    batches,
)
from funnelrank_client.aio import AsyncClient

from tests.clients.conftest import RANKING, Stub, problem

GOOD = (200, {}, json.dumps(RANKING).encode())
PAGE = (200, {}, b"<html>please log in</html>")
BROKEN = (0, {}, b"")
QUICK = Policy(first_pause_ms=1, jitter=lambda: 0.0)
ONCE = Policy(attempts=1)


@pytest.mark.parametrize("body", [b"<html>", b"", b"\xff", b"{}", b"[]", b'"x"', b"null", b'{"request_id": "r"}'])
async def test_a_200_that_is_not_a_ranking_is_no_answer_and_rank_or_falls_back(stub: Stub, body: bytes) -> None:
    stub.answer = lambda _: (200, {}, body)
    with Client(stub.url, policy=QUICK) as client:
        with pytest.raises(NoAnswer):
            client.rank("u", ["a"])
        assert len(stub.requests) == 3, "it is repeated like any call without an answer"
        ranking = client.rank_or(["p"], "u", ["a"])
        assert (ranking.item_ids, ranking.degraded, ranking.fallback) == (["p"], ("NoAnswer",), True)
    async with AsyncClient(stub.url, policy=QUICK) as asynchronous:
        with pytest.raises(NoAnswer):
            await asynchronous.rank("u", ["a"])
        assert (await asynchronous.rank_or(["p"], "u", ["a"])).item_ids == ["p"]


async def test_a_200_that_is_not_json_is_no_answer_of_every_other_call(stub: Stub) -> None:
    stub.answer = lambda _: PAGE
    with Client(stub.url, policy=QUICK) as client:
        for call in (lambda: client.send_events([Event("u", "a", "click")]), lambda: client.put_fusion({})):
            with pytest.raises(NoAnswer, match="please log in"):
                call()
    assert [method for method, _, _, _ in stub.requests] == ["POST", "POST", "POST", "PUT"]
    async with AsyncClient(stub.url, policy=QUICK) as asynchronous:
        with pytest.raises(NoAnswer, match="please log in"):
            await asynchronous.get_rules()
        with pytest.raises(NoAnswer, match="please log in"):
            await asynchronous.put_rules({})


@pytest.mark.parametrize("errors", [None, 3, "text", ["text", None]])
def test_a_refusal_with_odd_errors_has_its_type(stub: Stub, errors: Any) -> None:
    stub.answer = lambda _: problem(422, "invalid_request", errors=errors)
    with Client(stub.url) as client, pytest.raises(BadRequest) as raised:
        client.rank("u", ["a"])
    assert raised.value.errors == ()


@pytest.mark.parametrize("position", [b"3", float("nan"), {1}])
def test_a_record_that_json_cannot_hold_is_refused_by_add_and_the_others_are_sent(stub: Stub, position: Any) -> None:
    with Client(stub.url) as client, EventSender(client, every_ms=1) as sender:
        sender.add(Event("u", "1", "click"))
        with pytest.raises((TypeError, ValueError), match="JSON"):
            sender.add(Event("u", "bad", "click", position=position))
        sender.add(Event("u", "2", "click"))
    assert (sender.sent, sender.dropped) == (2, 0)
    refused = pytest.raises((TypeError, ValueError), match="JSON")
    with Client(stub.url) as client, ImpressionSender(client) as impressions, refused:
        impressions.add(Impression("r", {"a": position}))


def test_a_sender_goes_on_after_a_page_of_a_proxy(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_PAUSE_AFTER_FAILURE_S", 0.01)
    stub.answer = lambda number: PAGE if number < 3 else (200, {}, b"{}")
    with Client(stub.url, policy=ONCE) as client, EventSender(client, every_ms=1) as sender:
        sender.add(Event("u", "1", "click"))
    assert (sender.sent, sender.dropped, len(stub.requests)) == (1, 0, 3)


def test_a_sender_goes_on_after_an_error_that_nobody_expects(stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    class Odd(EventSender):
        def _call(self, batch: Sequence[Event]) -> None:
            if batch[0].item_id == "odd":
                raise RuntimeError("odd")
            super()._call(batch)

    with Client(stub.url) as client, Odd(client, batch=1) as sender:
        for item in ("odd", "1"):
            sender.add(Event("u", item, "click"))
    assert (sender.sent, sender.dropped) == (1, 1)
    assert "1 records are dropped" in caplog.text


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_records_that_are_added_do_not_shorten_the_pause_after_a_failure(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_PAUSE_AFTER_FAILURE_S", 60.0)
    stub.answer = lambda number: problem(503, "store_unavailable") if number == 1 else (200, {}, b"{}")
    with Client(stub.url, policy=ONCE) as client, EventSender(client, batch=2, every_ms=1) as sender:
        sender.add(Event("u", "a", "click"))
        wait_for(lambda: len(stub.requests) == 1)
        for i in range(50):
            sender.add(Event("u", str(i), "click"))
            time.sleep(0.004)
        assert len(stub.requests) == 1
    assert sender.sent == 51, "closing ends the pause"


async def test_a_change_is_sent_once_even_if_the_open_connection_breaks(stub: Stub) -> None:
    stub.answer = lambda _: BROKEN if stub.requests[-1][0] == "PUT" else (200, {}, b"{}")
    with Client(stub.url) as client:
        client.get_fusion()
        with pytest.raises(NoAnswer):
            client.put_fusion({})
    assert [method for method, _, _, _ in stub.requests] == ["GET", "PUT"]
    async with AsyncClient(stub.url) as asynchronous:
        await asynchronous.get_fusion()
        with pytest.raises(NoAnswer):
            await asynchronous.put_fusion({})
    assert [method for method, _, _, _ in stub.requests] == ["GET", "PUT"] * 2


async def test_a_change_uses_a_new_connection(stub: Stub) -> None:
    stub.answer = lambda _: (200, {}, b"{}")
    with Client(stub.url) as client:
        client.get_fusion()
        assert client.put_fusion({}) == {}
    async with AsyncClient(stub.url) as asynchronous:
        await asynchronous.get_fusion()
        assert await asynchronous.put_fusion({}) == {}
    assert stub.connections == 4


def test_the_second_sending_has_only_the_time_that_is_left(stub: Stub) -> None:
    def answer(number: int) -> Any:
        if number == 2:
            time.sleep(0.3)
            return BROKEN
        if number == 3:
            time.sleep(1.3)  # within the whole time, and beyond what is left of it
        return GOOD

    stub.answer = answer
    with Client(stub.url, policy=ONCE) as client:
        client.rank("u", ["a"])
        with pytest.raises(DeadlineExceeded):
            client.rank("u", ["a"], timeout_ms=1500)
    assert len(stub.requests) == 3


@contextmanager
def slow_service(pause_s: float, parts: int) -> Iterator[str]:
    """A service that sends a part of its answers every `pause_s`, so that no single read meets a timeout."""
    stop = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                for _ in range(parts):
                    if stop.wait(pause_s):
                        return
                    connection.sendall(b" ")
            except OSError:
                return  # the client has closed the connection

    def serve() -> None:
        for _ in range(2):
            try:
                connection, _address = listener.accept()
            except TimeoutError:
                return
            threads.append(threading.Thread(target=answer, args=(connection,)))
            threads[-1].start()

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(2.0)
        server = threading.Thread(target=serve)
        server.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            server.join()
            for thread in threads:
                thread.join()


def test_the_deadline_holds_for_a_hedged_ranking_whose_answers_come_in_parts() -> None:
    with slow_service(0.01, 200) as url:
        client = Client(url, timeout_ms=150, policy=Policy(hedge_after_ms=20))
        with pytest.raises(DeadlineExceeded):
            client.rank("u", ["a"])
    client.close()
