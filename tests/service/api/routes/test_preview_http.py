"""Tests previews: the figures by hand, refusals as those of the change, nothing changed, roles, one at a time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from rules_service import FUSION, ITEMS, PIN, TOKEN, rank

from service.callers.document import CallerRole, add_caller
from service.sample.embedded_redis import EmbeddedRedis

# The scores are the prices, so the top ten are the items 11 to 2. Ordered by falling price, they are 0 to 9.
CHEAPEST: dict[str, Any] = {"profiles": {"default": {"kind": "formula", "formula": "0 - price + 0 * pctr"}}}
SAME: dict[str, Any] = {"profiles": {"default": {"kind": "formula", "formula": "price * 2 + 0 * pctr"}}}
SCENES = {"home": "default", "shop": "default"}
USERS = [str(user) for user in range(6)]


@pytest.fixture
def running(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> Iterator[Any]:
    (tmp_path / "fusion.yaml").write_text(FUSION)
    with kit.serving(tmp_path, registry, redis_server.url, fusion_file=tmp_path / "fusion.yaml") as server:
        yield server


def preview(server: Any, document: str, body: Any) -> Any:
    answer = server.http.post(f"/{document}/preview", json=body, headers=TOKEN)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_other_weights_are_compared_on_recent_requests(running: Any) -> None:
    nothing = preview(running, "fusion", CHEAPEST | {"scenes": SCENES})
    assert (nothing["requests"], nothing["versions"][0]["n"], nothing["versions"][0]["changed_share"]) == (0, 0, None)
    answers = [rank(running, user_id=user) for user in USERS]
    body = preview(running, "fusion", CHEAPEST | {"scenes": SCENES, "author": "ann", "revision": 99})
    assert (body["requests"], body["candidates"], body["warnings"]) == (6, 6 * 12, [])
    version = body["versions"][0]
    named = {name: version[name] for name in ("line", "role", "name", "version", "n", "refused", "empty")}
    assert named == {
        "line": "default",
        "role": "stable",
        "name": "synthetic",
        "version": "1",
        "n": 6,
        "refused": 0,
        "empty": 0,
    }
    assert version["changed_share"] == pytest.approx(0.2), "11 and 10 make room for 0 and 1"
    # 11 10 9 ... 2 against 0 1 2 ... 9: no place has the same item.
    assert (version["moved_share"], version["unchanged_requests"]) == (1.0, 0)
    pctr = next(task for task in version["tasks"] if task["task"] == "pctr")
    scores = [{entry["item_id"]: entry["predictions"]["pctr"] for entry in answer["ranking"]} for answer in answers]
    before = [of_items[str(item)] for of_items in scores for item in range(2, 12)]
    after = [of_items[str(item)] for of_items in scores for item in range(10)]
    assert (pctr["n_before"], pctr["n_after"]) == (60, 60)
    assert pctr["before"] == pytest.approx(sum(before) / 60)
    assert pctr["after"] == pytest.approx(sum(after) / 60)

    same = preview(running, "fusion", SAME | {"scenes": SCENES})["versions"][0]
    assert (same["changed_share"], same["moved_share"], same["unchanged_requests"]) == (0.0, 0.0, 6)
    assert running.http.get("/fusion").json()["revision"] == 1, "nothing has changed"
    assert "request failed" not in running.log_lines


def test_requests_of_a_scene_that_the_profiles_lack_are_counted_apart(running: Any) -> None:
    rank(running, scene="shop")
    rank(running, scene="home")
    version = preview(running, "fusion", SAME | {"scenes": {"home": "default"}})["versions"][0]
    assert (version["n"], version["refused"]) == (1, 1)


def test_rules_are_compared_on_recent_requests(running: Any) -> None:
    for user in USERS:
        rank(running, user_id=user)
    body = preview(running, "rules", {"rules": {"default": [PIN]}})
    version = body["versions"][0]
    # 0 goes to place 2; 10 to 3 move down by one, and 2 leaves.
    assert version["n"] == 6
    assert version["changed_share"] == pytest.approx(0.1)
    assert version["moved_share"] == pytest.approx(0.9)
    assert "the store has no item '0'" in body["warnings"][0]
    assert "rules" not in rank(running), "nothing has changed"
    of_another_scene = preview(running, "rules", {"rules": {"shop": [{"type": "block", "item_ids": ["1"]}]}})
    assert of_another_scene["versions"][0]["unchanged_requests"] == 7, "the scene of these requests has no rules"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/fusion", {"profiles": {"default": {"kind": "formula", "formula": "pctr *"}}}),
        ("/fusion", {"profiles": {"default": {"kind": "formula", "formula": "pctr * prize"}}}),
        ("/fusion", {"profiles": {"default": {"kind": "formula", "formula": "log(0 - 1 - pctr)"}}}),
        ("/fusion", {"profiles": {}}),
        ("/rules", {"rules": {"default": [{"type": "quota", "feature": "tags", "at_most": 1, "window": 2}]}}),
        ("/rules", {"rules": {"default": [{"type": "block", "item_ids": [i["item_id"] for i in ITEMS]}]}}),
    ],
)
def test_a_document_is_refused_as_its_change_would_be(running: Any, path: str, body: Any) -> None:
    for user in USERS:
        rank(running, user_id=user)
    change = running.put(path, body)
    refused = running.http.post(f"{path}/preview", json=body, headers=TOKEN)
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
    assert change.status_code == 422
    of_call = {"request_id": None}
    assert refused.json() | of_call == change.json() | of_call


def test_a_caller_who_may_read_may_preview_and_nobody_without_a_key(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, running: Any
) -> None:
    for path in ("/fusion/preview", "/rules/preview", "/rank/preview"):
        assert running.http.post(path, json=CHEAPEST).status_code == 401, "without a callers document too"
    key = add_caller(registry, "console", CallerRole.READ, None, "test")
    with kit.serving(tmp_path, registry, redis_server.url) as server:
        headers = {"Authorization": f"Bearer {key}"}
        assert server.http.post("/rules/preview", json={"rules": {}}, headers=headers).status_code == 200
        assert server.http.put("/rules", json={"rules": {}}, headers=headers).status_code == 403
        assert server.http.post("/rules/preview", json={"rules": {}}).status_code == 401


def test_a_worker_computes_one_preview_at_a_time_and_ranks_meanwhile(running: Any) -> None:
    for user in range(100):
        rank(running, user_id=str(user))

    def of_caller(_: int) -> int:
        answer = running.http.post("/fusion/preview", json=SAME | {"scenes": SCENES}, headers=TOKEN)
        assert answer.status_code == 200 or (answer.json()["code"], answer.headers["retry-after"]) == (
            "overloaded",
            "1",
        )
        return int(answer.status_code)

    with ThreadPoolExecutor(8) as pool:
        statuses = pool.map(of_caller, range(8))
        assert running.rank(["1"]).status_code == 200
        seen = set(statuses)
    assert 200 in seen
    assert seen <= {200, 503}
    assert of_caller(0) == 200, "the next one has its turn"


def test_a_worker_checks_one_large_document_of_a_preview_at_a_time(running: Any) -> None:
    formula = "price + " * 60 + "price"
    profiles = {f"p{i}": {"kind": "formula", "formula": formula} for i in range(300)}

    def send(_: int) -> Any:
        return running.http.post("/fusion/preview", json={"profiles": profiles}, headers=TOKEN)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    codes = [answer.json()["code"] for answer in answers]
    assert set(codes) == {"invalid_request", "overloaded"} and codes.count("invalid_request") < 8
    # The next one has its turn again.
    assert preview(running, "fusion", SAME)["versions"][0]["n"] == 0
