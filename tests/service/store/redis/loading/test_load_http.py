"""Tests that a table, `PUT /features`, `POST /events` and a candidate's own features mean the same, over HTTP."""

import time
from pathlib import Path
from typing import Any

import redis

from features import FeatureSchema
from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.keys import behaviours_key
from service.store.redis.loading.load import load_folder

NOW = int(time.time() * 1000)
TAGS = [3, None, 4]


def test_a_value_of_a_csv_with_gaps_is_the_value_that_requests_send(
    tmp_path: Path,
    schema: FeatureSchema,
    layouts: Layouts,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
    server: Any,
) -> None:
    ids = [f"of-a-csv-{i}" for i in range(3)]
    lines = [f"{i},{'' if tag is None else float(tag)},,1.5,\n" for i, tag in zip(ids, TAGS, strict=True)]
    (tmp_path / "items.csv").write_text("item_id,tag,topics,price,quality\n" + "".join(lines))
    (tmp_path / "behaviours.csv").write_text(
        "user_id,item_id,action,scene,time_ms\n"
        + "".join(f"712,{i},click,{tag or ''},{NOW}.0\n" for i, tag in zip(ids, TAGS, strict=True))
    )
    load_folder(tmp_path, schema, redis_server.url)

    def scores(candidates: list[Any]) -> dict[str, float]:
        answer = server.rank(candidates)
        assert answer.status_code == 200, answer.text
        return {entry["item_id"]: entry["score"] for entry in answer.json()["ranking"]}

    loaded = scores(ids)
    own = scores([{"item_id": i, "features": {"tag": tag}} for i, tag in zip(ids, TAGS, strict=True)])
    assert own == loaded
    assert scores([{"item_id": ids[0], "features": {"tag": 5}}])[ids[0]] != loaded[ids[0]]

    def members() -> set[bytes]:
        stored: Any = store.zrange(behaviours_key(layouts.fingerprint, "712"), 0, -1)
        return set(stored)

    written = {"tag": 3, "topics": [], "price": 1.5, "quality": None}
    assert server.put("/features/items", {"items": [{"item_id": ids[0], "features": written}]}).status_code == 200
    before = members()
    events = [
        {"user_id": "712", "item_id": i, "action": "click", "scene": tag, "timestamp": NOW}
        for i, tag in zip(ids, TAGS, strict=True)
    ]
    answer = server.http.post("/events", json={"events": events})
    assert answer.json() == {"accepted": 3, "new": 0}, "the table's behaviours are those events"
    assert members() == before
    assert scores(ids) == loaded
