"""Serves one user's rankings while one thing after another changes, with a log of all candidates.

The requests by id: `plain`; `weighted` (other weights); `later` (one more behaviour); `dearer` (prices of items have
changed besides); `second` (by version 2 besides); `mixed` (as `second`, with the weights of `weighted`); `free` and
`pinned` (before and after the scene `shop` gets a rule); `paged` (three pages of the scene `paged`); `other` (another
user); `fewer` (fewer candidates).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import redis
from rules_service import ids, put
from running_service import Server, serving, wait_until
from synthetic_bundle import SCHEMA, go_live, publish

from features import FeatureSchema
from features.layouts import Layouts
from loop.log.compact import compact
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.keys import item_key, user_key

NOW = 1000 * int(time.time())  # whole seconds, because the synthetic scores read the milliseconds of behaviours
HOUR = 3_600_000
ITEMS = [str(n) for n in range(24)]
DEAR = "12000"  # no candidate: its price as a behaviour moves every score
USER = "u1"
WEIGHTS = {"weights": {"pctr": 1.0, "pctcvr": 0.5}}
CLICKS = {"name": "clicks", "statistic": "count", "by": "item", "actions": ["click"]}
WITH_MARGIN = SCHEMA | {
    "candidate": [{"name": "margin", "type": "numeric"}],
    "counters": [CLICKS | {"window_s": 86_400, "bucket_s": 3600}],
}
PAGED: list[dict[str, Any]] = [
    {"type": "boost", "formula": "score + margin"},
    {"type": "seen", "within_days": 7},
    {"type": "spread", "feature": "tag", "distance": 3},
    {"type": "interleave", "pattern": ["fresh", "known"]},
]
FUSION = """
revision: 1
profiles:
  default: {kind: weighted_sum, weights: {pctr: 3.5, pcvr: 1.0}}
  clicks: {kind: weighted_sum, weights: {pctr: 1.0}}
scenes: {shop: default, paged: default}
"""
WITH_SOURCES = [
    {"item_id": item, "source": ("known", "fresh")[int(item) % 2], "features": {"margin": 0.1 * (int(item) % 5)}}
    for item in ITEMS
]
REQUESTS = 13


def item_values(item: str) -> dict[str, Any]:
    return {"tag": f"t{int(item) % 4}", "topics": ["a"], "price": int(item) * 1.5, "quality": 3.0}


@contextmanager
def changed_rankings(folder: Path) -> Iterator[SimpleNamespace]:
    """The log, the registry, the answers by request id, and the address of a Redis that lives meanwhile."""
    registry = folder / "registry"
    publish(registry, "1", schema=WITH_MARGIN)
    publish(registry, "2", schema=WITH_MARGIN, bias=0.5)
    go_live(registry, "1")
    (folder / "fusion.yaml").write_text(FUSION)
    log = folder / "log"
    settings: dict[str, Any] = {"exposure_log": log, "exposure_cut": True, "fusion_overrides": True, "score_chunk": 7}
    with EmbeddedRedis() as own:
        with serving(folder, registry, own.url, fusion_file=folder / "fusion.yaml", **settings) as server:
            _load(own.url)
            answers = _rank_all(server, registry)
            logged = f'funnelrank_exposure_log_records_total{{kind="exposures",outcome="written"}} {REQUESTS}.0'
            wait_until(lambda: logged in server.http.get("/metrics").text)
        compact(log)
        yield SimpleNamespace(log=log, registry=registry, answers=answers, redis_url=own.url)


def _load(redis_url: str) -> None:
    layouts = Layouts.of(FeatureSchema.model_validate(WITH_MARGIN))
    with redis.Redis.from_url(redis_url) as store:
        for item in (*ITEMS, DEAR):
            store.set(item_key(layouts.fingerprint, item), layouts.item.pack({"item_id": item, **item_values(item)}))
        row = layouts.user.pack({"user_id": USER, "gender": "f", "interests": ["x"], "age": 30.5})
        store.set(user_key(layouts.fingerprint, USER), row)


def _rank_all(server: Server, registry: Path) -> dict[str, list[dict[str, Any]]]:
    answers: dict[str, list[dict[str, Any]]] = {}

    def rank(request_id: str, candidates: list[Any] = ITEMS, user_id: str = USER, **more: Any) -> dict[str, Any]:
        answer = server.rank(candidates, user_id, request_id=request_id, context={"tab": "1", "hour": 3}, **more)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        answers.setdefault(request_id, []).append(body)
        return body

    def behave(item: str, age_ms: int) -> None:
        event = {"user_id": USER, "item_id": item, "action": "click", "scene": 1, "timestamp": NOW - age_ms}
        assert server.http.post("/events", json={"events": [event]}).status_code == 200

    def follow(**rules: Any) -> None:
        revision = put(server, rules=rules).json()["revision"]
        wait_until(lambda: server.http.get("/models").json()["workers"][0]["rules_revision"] == revision)

    behave("5", HOUR)
    behave("9", HOUR // 2)
    rank("plain", top_k=20)
    rank("weighted", top_k=20, fusion=WEIGHTS)
    rank("other", user_id="u2")
    rank("fewer", ITEMS[2:])
    rank("free", scene="shop", top_k=10)
    cut = next(item for item in ITEMS if item not in ids(answers["free"][0]))
    follow(shop=[{"type": "pin", "item_id": cut, "position": 1}], paged=PAGED)
    rank("pinned", scene="shop", top_k=10)
    # A list of three pages, without the two items that the user has seen.
    seen = {"request_id": "plain", "timestamp": NOW, "user_id": USER}
    best = ids(answers["plain"][0])[:2]
    seen |= {"items": [{"item_id": item, "position": place} for place, item in enumerate(best, 1)]}
    assert server.http.post("/impressions", json={"impressions": [seen]}).status_code == 200
    page: dict[str, Any] = {}
    for _ in range(3):
        page = rank("paged", WITH_SOURCES, scene="paged", top_k=5, **({"page": page["page"]} if page else {}))
    # One change after another.
    behave(DEAR, 1000)
    rank("later", top_k=20)
    prices = [{"item_id": item, "features": {"price": 400.0 - 9 * int(item)}} for item in ITEMS[:12]]
    assert server.put("/features/items", {"items": prices}).status_code == 200
    rank("dearer", top_k=20)
    go_live(registry, "2")
    wait_until(lambda: server.http.get("/models").json()["workers"][0]["live"]["version"] == "2")
    rank("second", top_k=20)
    rank("mixed", top_k=20, fusion=WEIGHTS)
    return answers
