"""Tests the effects of rules on a list over HTTP: pages, explanations, items that the user has seen."""

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import fresh_http
import pytest
import redis
from rules_service import BLOCK, BY_PRICE, FUSION, ITEMS, PIN, hold, ids, rank

from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.keys import shown_items_key

DAY_MS = 86_400_000
SPREAD = {"type": "spread", "feature": "tag", "distance": 3}
TURNS = {"type": "interleave", "pattern": ["new", "near"]}
FIRST = {"type": "quota", "feature": "tag", "one_of": ["0", "1"], "at_least": 2, "first": 5}
SOURCED = [item | {"source": "new" if i % 3 else "near"} for i, item in enumerate(ITEMS)]


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, kit: SimpleNamespace, redis_server: EmbeddedRedis
) -> Iterator[Any]:
    """One service for tests that each write a whole document of their own."""
    folder = tmp_path_factory.mktemp("rules")
    kit.publish(folder / "registry", "1")
    kit.go_live(folder / "registry", "1")
    (folder / "fusion.yaml").write_text(FUSION)
    options = {"workers": 2, "fusion_file": folder / "fusion.yaml"}
    with kit.serving(folder, folder / "registry", redis_server.url, **options) as server:
        yield server


def refusal(server: Any, **more: Any) -> Any:
    answer = fresh_http.post(f"{server.url}/rank", json={"user_id": "712", "candidates": ITEMS} | more)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == "page"
    return error["message"]


@pytest.mark.parametrize("rules", [[SPREAD], [PIN | {"position": 7}, SPREAD], [TURNS, FIRST], [BLOCK, SPREAD, FIRST]])
def test_pages_joined_are_one_long_list_on_whichever_worker(
    shared: Any, kit: SimpleNamespace, rules: list[dict[str, Any]]
) -> None:
    hold(kit, shared, *rules)
    whole = rank(shared, candidates=SOURCED)
    assert whole["rules"]["relaxed"] == []
    assert "page" not in whole, "nothing is left for another page"
    for size in (1, 4, 5):
        # Every call uses a new connection, so that pages come from both workers.
        page = rank(shared, candidates=SOURCED, top_k=size)
        joined = page["ranking"]
        while "page" in page:
            page = rank(shared, candidates=SOURCED, top_k=size, page=page["page"])
            joined += page["ranking"]
        assert joined == whole["ranking"]


def test_a_token_is_for_one_user_model_scene_day_and_revision(shared: Any, kit: SimpleNamespace) -> None:
    hold(kit, shared, SPREAD)
    now = time.time_ns() // 1_000_000
    noon = now - now % DAY_MS + DAY_MS // 2
    token = rank(shared, top_k=3, timestamp=noon)["page"]
    assert "another user" in refusal(shared, user_id="1", timestamp=noon, page=token)
    assert "begin again without it" in refusal(shared, timestamp=noon - DAY_MS, page=token)
    assert "another scene" in refusal(shared, scene="home", timestamp=noon, page=token)
    for broken in ("", "x", token[:-8], "A" + token[1:], "\u00e9", token[:40] + "AAAA" + token[44:]):
        assert "no token of an earlier page" in refusal(shared, timestamp=noon, page=broken)
    hold(kit, shared, SPREAD, BLOCK)
    assert "the rules have changed" in refusal(shared, timestamp=noon, page=token)
    hold(kit, shared)
    assert "the scene has no rules" in refusal(shared, timestamp=noon, page=token)


def test_explain_says_which_rule_moved_what_and_what_the_list_paid(shared: Any, kit: SimpleNamespace) -> None:
    double = {"type": "boost", "formula": "score * 2", "when": {"feature": "tag", "one_of": ["4"]}}
    hold(kit, shared, BLOCK, double, PIN)
    body = rank(shared, top_k=4, explain=True)
    assert ids(body) == ["9", "0", "8", "10"]
    moves = [entry["moved_by"] for entry in body["ranking"]]
    assert moves == [
        [{"rule": "0:block", "from": 3, "to": 2}, {"rule": "1:boost", "from": 2, "to": 1}],
        [{"rule": "2:pin", "from": None, "to": 2}],
        [
            {"rule": "0:block", "from": 4, "to": 3},
            {"rule": "1:boost", "from": 3, "to": 2},
            {"rule": "2:pin", "from": 2, "to": 3},
        ],
        [
            {"rule": "0:block", "from": 2, "to": 1},
            {"rule": "1:boost", "from": 1, "to": 3},
            {"rule": "2:pin", "from": 3, "to": 4},
        ],
    ]
    # 11 moves down for 7, the boost does not change the sum of the fused scores, and 0 replaces 7.
    assert body["rules"]["paid"] == pytest.approx({"0:block": 4.0, "1:boost": 0.0, "2:pin": 7.0})
    assert [entry["score"] for entry in body["ranking"]] == pytest.approx([18.0, 0.0, 16.0, 10.0])
    plain = rank(shared, top_k=4)
    assert ids(plain) == ids(body)
    assert "moved_by" not in plain["ranking"][0]
    second = rank(shared, top_k=4, explain=True, page=body["page"])
    assert [entry["rank"] for entry in second["ranking"]] == [5, 6, 7, 8]


def act(server: Any, user: str, item: str, ago_ms: int) -> None:
    event = {"user_id": user, "item_id": item, "action": "click", "timestamp": time.time_ns() // 1_000_000 - ago_ms}
    assert server.http.post("/events", json={"events": [event]}).status_code == 200


@pytest.fixture
def seen(shared: Any, kit: SimpleNamespace) -> Any:
    hold(kit, shared, {"type": "seen", "within_days": 7})
    return shared


def test_what_a_user_acted_on_is_gone_from_the_next_ranking_of_that_user(
    seen: Any, redis_server: EmbeddedRedis
) -> None:
    act(seen, "ada", "11", 1000)
    act(seen, "ada", "9", 6 * DAY_MS)
    act(seen, "ada", "7", 8 * DAY_MS)
    for _ in range(4):
        body = rank(seen, user_id="ada")
        assert ids(body) == [item for item in BY_PRICE if item not in ("11", "9")]
        assert body["rules"]["removed"] == {"0:seen": 2}
    assert ids(rank(seen, user_id="bob")) == BY_PRICE
    with redis.Redis.from_url(redis_server.url) as client:
        left_ms: Any = client.pttl(shown_items_key("ada"))
        assert 6.9 * DAY_MS < left_ms <= 7 * DAY_MS


def test_a_cap_counts_what_was_shown_and_not_what_was_done(shared: Any, kit: SimpleNamespace) -> None:
    hold(kit, shared, {"type": "cap", "at_most": 2, "within_days": 1})
    now = time.time_ns() // 1_000_000
    for time_ms, items in ((now - 9000, ["11", "10"]), (now - 5000, ["11"]), (now - 5000, ["11"])):
        seen_items = [{"item_id": item, "position": 1} for item in items]
        impression = {"request_id": "r", "user_id": "cap", "items": seen_items, "timestamp": time_ms}
        assert shared.http.post("/impressions", json={"impressions": [impression]}).status_code == 200
        act(shared, "cap", "10", now - time_ms + len(items))
    assert ids(rank(shared, user_id="cap")) == BY_PRICE[1:]
    assert ids(rank(shared, user_id="other")) == BY_PRICE


def test_where_a_user_has_seen_everything_the_rule_is_relaxed_and_named(seen: Any) -> None:
    for item in ("1", "2"):
        act(seen, "eve", item, 1000)
    body = rank(seen, user_id="eve", candidates=["1", "2"])
    assert len(body["ranking"]) == 2
    assert (body["rules"]["relaxed"], body["rules"]["removed"]) == (["0:seen"], {})


def test_a_broken_set_of_seen_items_is_counted_and_replaced(seen: Any, redis_server: EmbeddedRedis) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.rpush(shown_items_key("list"), "x")
        client.set(shown_items_key("short"), b"seven..")
    for user in ("list", "short"):
        body = rank(seen, user_id=user)
        assert "corrupt_rows:1" in body["degraded"]
        assert ids(body) == BY_PRICE
        act(seen, user, "11", 1000)
        assert ids(rank(seen, user_id=user)) == BY_PRICE[1:]


def test_without_such_a_rule_nothing_is_stored(shared: Any, kit: SimpleNamespace, redis_server: EmbeddedRedis) -> None:
    hold(kit, shared, BLOCK)
    act(shared, "nobody", "3", 1000)
    with redis.Redis.from_url(redis_server.url) as client:
        assert not client.exists(shown_items_key("nobody"))
