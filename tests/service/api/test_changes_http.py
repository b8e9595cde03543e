"""Tests the answer to a change of a document: the uptake by the workers, and the revision in If-Match and ETag."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import redis

from service.api import changes
from service.api.changes import UptakeState, uptake
from service.sample.embedded_redis import EmbeddedRedis
from service.settings import Settings

SUM = {"profiles": {"default": {"kind": "weighted_sum", "weights": {"pctr": 2.0}}}}
TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture
def running(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> Iterator[Any]:
    with kit.serving(tmp_path, registry, redis_server.url) as server:
        yield server


def go_live(server: Any, version: str) -> httpx.Response:
    answer: httpx.Response = server.put("/models/rollout", {"stable": {"name": "synthetic", "version": version}})
    return answer


def test_a_change_answers_when_the_first_worker_serves_it(running: Any, registry: Path, kit: SimpleNamespace) -> None:
    kit.publish(registry, "2", bias=1.0)
    answer = go_live(running, "2")
    assert (answer.status_code, answer.json()["served"]["state"]) == (200, "served")
    assert running.rank(["1"]).json()["model"]["version"] == "2"
    answer = running.put("/fusion", SUM)
    assert answer.json()["served"]["state"] == "served"
    assert running.rank(["1"]).json()["fusion"]["revision"] == answer.json()["revision"]
    back = running.http.post("/models/rollback", headers=TOKEN)
    assert (back.json()["served"]["state"], back.headers["etag"]) == ("served", '"3"')
    assert running.rank(["1"]).json()["model"]["version"] == "1"


def test_a_change_that_the_worker_refuses_answers_why(running: Any, registry: Path, kit: SimpleNamespace) -> None:
    kit.publish(registry, "2", golden_bias=0.5)
    served = go_live(running, "2").json()["served"]
    assert served["state"] == "refused"
    assert served["detail"].startswith("golden_mismatch: ")
    assert running.rank(["1"]).json()["model"]["version"] == "1"


async def test_a_change_that_nobody_has_taken_up_yet_is_said_to_be_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_LONGEST_SECONDS", 0.05)
    status = {"refused": [{"model": "m/2", "code": "old", "detail": "", "at": "2020-01-01T00:00:00Z"}]}
    worker: Any = SimpleNamespace(
        settings=Settings(),
        follower=SimpleNamespace(described=lambda: status),
        metrics=SimpleNamespace(records=SimpleNamespace(statuses=list)),
    )
    outcome = await uptake(worker, lambda _: False, {"m/2"}, "2026-01-01T00:00:00Z")
    assert outcome.state == UptakeState.PENDING == "accepted, not yet served"


@pytest.mark.parametrize(
    ("sent", "revision", "status"),
    [
        ('"0"', None, 200),
        ("0", None, 200),
        ("*", None, 200),
        ('"0"', 0, 200),
        ('"7"', None, 409),
        ('"0"', 7, 409),
        ('W/"0"', None, 409),
        ("abc", None, 409),
        ('"0", "1"', None, 409),
    ],
)
def test_if_match_is_honoured_as_the_revision_is(running: Any, sent: str, revision: int | None, status: int) -> None:
    before = running.http.get("/fusion")
    assert before.headers["etag"] == '"0"'
    body = SUM | ({} if revision is None else {"revision": revision})
    answer = running.http.put("/fusion", json=body, headers=TOKEN | {"If-Match": sent})
    assert answer.status_code == status
    if status == 200:
        assert answer.headers["etag"] == running.http.get("/fusion").headers["etag"] == '"1"'
    else:
        assert answer.json()["code"] == "conflict"
        assert running.http.get("/fusion").json() == before.json()


def test_if_match_holds_for_the_rollout_too(running: Any) -> None:
    target = {"stable": {"name": "synthetic", "version": "1"}}
    for sent, status in (('"5"', 409), ('"1"', 200), ('"1"', 409)):
        answer = running.http.put("/models/rollout", json=target, headers=TOKEN | {"If-Match": sent})
        assert answer.status_code == status
    answer = running.http.post("/models/rollback", json={}, headers=TOKEN | {"If-Match": '"1"'})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
