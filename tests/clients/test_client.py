"""Tests the synchronous client against a stub: deadlines, repetition, hedging, fallback, errors and events."""

import json
import threading
import time
from typing import Any

import numpy as np
import pytest
from funnelrank_client import (
    BadRequest,
    Candidate,
    Client,
    Conflict,
    DeadlineExceeded,
    Event,
    EventSender,
    Impression,
    ImpressionSender,
    NoAnswer,
    NotAllowed,
    Policy,
    ProblemError,
    Unavailable,
)

from tests.clients.conftest import RANKING, Stub, problem

GOOD = (200, {}, json.dumps(RANKING).encode())
QUICK = Policy(first_pause_ms=1, jitter=lambda: 0.0)


def test_a_ranking_is_typed_and_the_request_has_only_what_was_given(stub: Stub) -> None:
    with Client(stub.url, timeout_ms=5000) as client:
        ranking = client.rank("u", ["a", Candidate("b", {"price": 2.5}, "recent")], scene="home", request_id="q-1")
    assert ranking.item_ids == ["a"]
    assert (ranking.items[0].rank, ranking.items[0].score, ranking.items[0].predictions) == (1, 0.5, {"pctr": 0.5})
    assert (ranking.degraded[0].reason, ranking.degraded[0].affected) == ("unknown_items", 2)
    assert ranking.model is not None
    assert (ranking.model.version, ranking.coverage.requested, ranking.fallback) == ("1", 1, False)
    method, path, headers, body = stub.requests[0]
    assert (method, path, headers["x-request-id"]) == ("POST", "/rank", "q-1")
    assert 4000 < body.pop("timeout_ms") <= 5000
    candidates = ["a", {"item_id": "b", "features": {"price": 2.5}, "source": "recent"}]
    assert body == {"user_id": "u", "candidates": candidates, "scene": "home", "request_id": "q-1"}


def test_a_connection_is_used_again_and_one_that_was_closed_meanwhile_is_replaced(stub: Stub) -> None:
    with Client(stub.url) as client:
        for _ in range(5):
            client.rank("u", ["a"])
        assert stub.connections == 1
        stub.answer = lambda number: (0, {}, b"") if number == 6 else GOOD
        assert client.rank("u", ["a"]).item_ids == ["a"]
    assert stub.connections == 2


def test_a_503_is_repeated_after_the_pause_that_it_asks_for(stub: Stub) -> None:
    stub.answer = lambda n: problem(503, "overloaded", {"Retry-After": "0.05"}) if n < 3 else GOOD
    with Client(stub.url, policy=QUICK) as client:
        started = time.monotonic()
        assert client.rank("u", ["a"]).item_ids == ["a"]
        assert time.monotonic() - started >= 0.1
    assert len(stub.requests) == 3
    left = [body["timeout_ms"] for _, _, _, body in stub.requests]
    assert left == sorted(left, reverse=True)
    assert left[2] <= left[0] - 100, "the service is told what is left of the deadline"
    assert len({body["request_id"] for _, _, _, body in stub.requests}) == 1


def test_a_pause_that_would_pass_the_deadline_is_not_made(stub: Stub) -> None:
    stub.answer = lambda _: problem(503, "overloaded", {"Retry-After": "30"})
    with Client(stub.url, timeout_ms=10_000) as client, pytest.raises(Unavailable) as raised:
        client.rank("u", ["a"])
    assert (raised.value.code, raised.value.retry_after_s, len(stub.requests)) == ("overloaded", 30.0, 1)


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, BadRequest), (401, NotAllowed), (403, NotAllowed), (404, BadRequest), (409, Conflict), (422, BadRequest)],
)
def test_a_refusal_is_not_repeated_and_has_its_type_and_fields(stub: Stub, status: int, error: type[Exception]) -> None:
    stub.answer = lambda _: problem(status, "some_code", errors=[{"field": "user_id", "message": "m"}])
    with Client(stub.url) as client, pytest.raises(error) as raised:
        client.rank("u", ["a"])
    assert isinstance(raised.value, ProblemError)
    assert (raised.value.status, raised.value.code, raised.value.request_id) == (status, "some_code", "r")
    assert raised.value.errors[0].field == "user_id"
    assert len(stub.requests) == 1


def test_an_answer_of_something_in_between_is_an_error_with_its_text(stub: Stub) -> None:
    stub.answer = lambda _: (502, {}, b"<html>bad gateway</html>")
    with Client(stub.url) as client, pytest.raises(ProblemError, match="bad gateway") as raised:
        client.rank("u", ["a"])
    assert (raised.value.status, raised.value.code) == (502, "")


def test_a_deadline_holds_over_all_attempts(stub: Stub) -> None:
    slow = threading.Event()
    stub.answer = lambda _: (slow.wait(20), GOOD)[1]
    with Client(stub.url, timeout_ms=100) as client:
        with pytest.raises(DeadlineExceeded):
            client.rank("u", ["a"])
        slow.set()
    assert len(stub.requests) == 1


def test_a_service_that_is_away_is_no_answer_and_rank_or_gives_the_own_order(stub: Stub) -> None:
    with Client("http://127.0.0.1:9", policy=QUICK) as client:
        with pytest.raises(NoAnswer, match=r"127\.0\.0\.1:9"):
            client.rank("u", ["a"])
        ranking = client.rank_or(["p", "q"], "u", ["a", "b"])
        assert (ranking.item_ids, ranking.fallback, ranking.model) == (["p", "q"], True, None)
        assert ranking.degraded == ("NoAnswer",)
        assert client.rank_or(None, "u", ["a", Candidate("b")]).item_ids == ["a", "b"]
        assert not client.is_ready()
    stub.answer = lambda _: problem(422, "invalid_request")
    with Client(stub.url) as client, pytest.raises(BadRequest):
        client.rank_or(["p"], "u", ["a"])


def test_a_hedge_takes_the_first_answer(stub: Stub) -> None:
    slow = threading.Event()

    def answer(number: int) -> Any:
        if number == 1:
            slow.wait(20)
        return GOOD

    stub.answer = answer
    with Client(stub.url, timeout_ms=20_000, policy=Policy(hedge_after_ms=20)) as client:
        assert client.rank("u", ["a"]).item_ids == ["a"]
        assert len(stub.requests) == 2
        slow.set()


def test_a_change_of_what_is_live_is_never_repeated(stub: Stub) -> None:
    stub.answer = lambda _: problem(503, "registry_unavailable", {"Retry-After": "0"})
    with Client(stub.url, token="t", policy=QUICK) as client:
        for change in (client.put_fusion, client.put_rollout):
            with pytest.raises(Unavailable):
                change({"x": 1})
        with pytest.raises(Unavailable):
            client.roll_back_models(to=3, reason="slow")
    assert [body for _, _, _, body in stub.requests] == [{"x": 1}, {"x": 1}, {"to": 3, "reason": "slow"}]
    assert {headers["authorization"] for _, _, headers, _ in stub.requests} == {"Bearer t"}


def test_only_operators_calls_carry_the_token(stub: Stub) -> None:
    with Client(stub.url, token="t") as client:
        client.rank("u", ["a"])
        client.send_events([Event("u", "a", "click")])
    assert all("authorization" not in headers for _, _, headers, _ in stub.requests)


def test_every_call_carries_the_key_and_operators_calls_the_token_instead(stub: Stub) -> None:
    for token, expected in ((None, "Bearer k"), ("t", "Bearer t")):
        stub.requests.clear()
        with Client(stub.url, key="k", token=token) as client:
            client.rank("u", ["a"])
            client.put_user_features({"u": {}})
        assert [headers["authorization"] for _, _, headers, _ in stub.requests] == ["Bearer k", expected]
        assert "Bearer" not in repr(vars(client))


def test_vectors_of_numpy_are_sent_as_numbers(stub: Stub) -> None:
    vector = np.array([1.5, -2.0], dtype=np.float32)
    with Client(stub.url) as client:
        client.put_item_features({"a": {"text": vector, "price": np.float32(0.5), "stock": np.int64(3)}})
        with pytest.raises(ValueError, match="not JSON compliant"):
            client.put_item_features({"a": {"text": np.array([np.nan])}})
        with pytest.raises(TypeError, match="set is no JSON"):
            client.put_item_features({"a": {"tags": {"x"}}})  # type: ignore[dict-item]
    ((_, path, _, body),) = stub.requests
    values = {"text": [1.5, -2.0], "price": 0.5, "stock": 3}
    assert (path, body) == ("/features/items", {"items": [{"item_id": "a", "features": values}]})


def test_nan_is_refused_before_it_is_sent(stub: Stub) -> None:
    with Client(stub.url) as client, pytest.raises(ValueError, match="JSON"):
        client.rank("u", [Candidate("a", {"price": float("nan")})])
    assert not stub.requests


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        Client(url)


def sent_ids(stub: Stub) -> list[str]:
    return [event["item_id"] for _, _, _, body in stub.requests for event in body["events"]]


def test_events_go_out_in_batches_and_closing_sends_the_rest(stub: Stub) -> None:
    with Client(stub.url) as client, EventSender(client, batch=10, every_ms=60_000) as sender:
        for i in range(25):
            sender.add(Event("u", str(i), "click"))
    assert (sender.sent, sender.dropped) == (25, 0)
    assert sent_ids(stub) == [str(i) for i in range(25)]
    assert max(len(body["events"]) for _, _, _, body in stub.requests) == 10
    with pytest.raises(RuntimeError):
        sender.add(Event("u", "1", "click"))


def test_impressions_go_out_as_the_service_takes_them(stub: Stub) -> None:
    with Client(stub.url) as client, ImpressionSender(client) as sender:
        sender.add(Impression("r-1", {"a": 1, "b": 2}, timestamp=5, impression_id="i-1"))
    items = [{"item_id": "a", "position": 1}, {"item_id": "b", "position": 2}]
    impression = {"request_id": "r-1", "items": items, "timestamp": 5, "impression_id": "i-1"}
    assert [(path, body) for _, path, _, body in stub.requests] == [("/impressions", {"impressions": [impression]})]


def test_a_repeated_batch_has_the_same_ids(stub: Stub) -> None:
    stub.answer = lambda n: problem(503, "store_unavailable", {"Retry-After": "0"}) if n < 3 else (200, {}, b"{}")
    with Client(stub.url, policy=QUICK) as client, EventSender(client, every_ms=1) as sender:
        sender.add(Event("u", "1", "click"))
    assert sender.sent == 1
    assert len({json.dumps(body) for _, _, _, body in stub.requests}) == 1


def test_one_refused_event_takes_no_other_with_it(stub: Stub) -> None:
    def answer(_: int) -> Any:
        events = stub.requests[-1][3]["events"]
        bad = [i for i, event in enumerate(events) if event["item_id"] == "bad"]
        if not bad:
            return 200, {}, b"{}"
        return problem(422, "invalid_request", errors=[{"field": f"events[{bad[0]}].timestamp", "message": "m"}])

    stub.answer = answer
    with Client(stub.url) as client, EventSender(client, batch=6, every_ms=60_000) as sender:
        for item in ("1", "bad", "2", "bad", "3", "4"):
            sender.add(Event("u", item, "click"))
    assert (sender.sent, sender.dropped) == (4, 2)


def test_events_beyond_the_limit_are_dropped_oldest_first_and_counted(stub: Stub) -> None:
    stub.answer = lambda _: problem(503, "store_unavailable")
    with Client(stub.url, policy=Policy(attempts=1)) as client:
        sender = EventSender(client, batch=1000, every_ms=60_000, limit=3, close_s=0.2)
        for i in range(5):
            sender.add(Event("u", str(i), "click"))
        sender.close()
    assert (sender.sent, sender.dropped) == (0, 5)
    assert [e["item_id"] for e in stub.requests[0][3]["events"]] == ["2", "3", "4"]
