"""Tests a user that the request brings along: ranked exactly as the same user in the store."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranked_once
import redis

from features.layouts import Layouts
from service.errors import InvalidRequest
from service.ranking.query import InlineBehaviour, InlineUser, Query, Ranking, RankingOptions
from service.sample.embedded_redis import EmbeddedRedis
from service.store.event_keys import event_keys
from service.store.opening import open_writer
from service.store.redis.keys import item_key, user_key

NOW = 1_700_000_000_000
USER = {"gender": "f", "age": 31.0, "interests": ["a", "b"]}
ITEMS = {str(i): {"tag": f"t{i % 3}", "topics": [f"p{i}"], "price": 3.0 * i, "quality": i} for i in range(8)}
# As they arrived: two of one time, three twice (5 and "5" are one action, no scene and an empty one are one scene), one
# after the request.
BEHAVIOURS = [
    InlineBehaviour("3", "click", "home", NOW - 5000),
    InlineBehaviour("7", "like", None, NOW - 5000),
    InlineBehaviour("1", "click", "home", NOW - 9000),
    InlineBehaviour("3", "click", "home", NOW - 5000),
    InlineBehaviour("9", 5, None, NOW - 7000),
    InlineBehaviour("9", "5", None, NOW - 7000),
    InlineBehaviour("7", "like", "", NOW - 5000),
    InlineBehaviour("2", "click", None, NOW + 1),
]
IDS = ["0", "1", "2", "new"]


rank = partial(ranked_once.rank, store_timeout_ms=2000)


def query(user_id: str, inline: InlineUser | None = None) -> Query:
    return Query(user_id, IDS, {}, {"tab": 1, "hour": 2}, RankingOptions(timestamp=NOW), inline_user=inline)


@pytest.fixture
async def known(store: redis.Redis, redis_server: EmbeddedRedis, layouts: Layouts) -> None:
    """Items, and a stored user with these features and behaviours."""
    for item_id, values in ITEMS.items():
        store.set(item_key(layouts.fingerprint, item_id), layouts.item.pack({"item_id": item_id, **values}))
    row = layouts.user.pack(USER, onto=layouts.unknown_row("user", "stored"))
    store.set(user_key(layouts.fingerprint, "stored"), row)
    assert layouts.behaviour is not None
    writer = open_writer(redis_server.url, 2000)
    for behaviour in BEHAVIOURS:
        item = layouts.item.pack({"item_id": behaviour.item_id, **ITEMS.get(behaviour.item_id, {})})
        packed = layouts.behaviour.pack_event(item, behaviour.action, behaviour.scene, behaviour.time_ms)
        (key,) = event_keys([behaviour.item_id], [behaviour.action], [behaviour.scene])
        await writer.add_behaviours(layouts, {"stored": [(behaviour.time_ms, key + packed)]})
    await writer.close()


def inputs_of(ranking: Ranking) -> dict[str, Any]:
    return {name: values.tobytes() for name, values in ranking.computation.inputs.items() if "user_keys" not in name}


async def test_a_user_from_the_request_is_ranked_as_the_same_one_from_the_store(
    registry: Path, redis_server: EmbeddedRedis, known: None
) -> None:
    stored = await rank(registry, redis_server.url, query("stored"))
    inline = await rank(registry, redis_server.url, query("stored", InlineUser(USER, BEHAVIOURS)))
    assert len(stored.computation.inputs["behaviour_times"]) == 4
    for name, values in stored.computation.inputs.items():
        np.testing.assert_array_equal(inline.computation.inputs[name], values, err_msg=name)
    assert inline.ranked.item_ids == stored.ranked.item_ids
    assert [str(d) for d in inline.degraded] == [str(d) for d in stored.degraded] == ["unknown_items:1"]
    # Somebody whom the store does not know has the same sequence, and only the id differs.
    stranger = await rank(registry, redis_server.url, query("?", InlineUser(USER, BEHAVIOURS)))
    assert inputs_of(stranger) == inputs_of(stored)
    assert [str(d) for d in stranger.degraded] == ["unknown_items:1"]


async def test_each_part_replaces_the_stored_one_alone(
    registry: Path, redis_server: EmbeddedRedis, known: None
) -> None:
    stored = await rank(registry, redis_server.url, query("stored"))
    young = await rank(registry, redis_server.url, query("stored", InlineUser(USER | {"age": 3.0})))
    np.testing.assert_array_equal(
        young.computation.inputs["behaviour_keys"], stored.computation.inputs["behaviour_keys"]
    )
    assert young.computation.inputs["user_numerics"].tolist() != stored.computation.inputs["user_numerics"].tolist()
    without = await rank(registry, redis_server.url, query("stored", InlineUser(None, [])))
    assert len(without.computation.inputs["behaviour_times"]) == 0
    np.testing.assert_array_equal(
        without.computation.inputs["user_numerics"], stored.computation.inputs["user_numerics"]
    )


async def test_without_a_store_the_user_counts_all_the_same(registry: Path, layouts: Layouts) -> None:
    asked = query("712", InlineUser(USER, BEHAVIOURS))
    ranking = await rank(registry, "redis://127.0.0.1:1/0", asked)
    assert [str(d) for d in ranking.degraded] == ["store_unavailable"]
    assert len(ranking.computation.inputs["behaviour_times"]) == 4
    assert ranking.computation.inputs["user_numerics"].ravel().tolist() == [31.0]


async def test_features_that_do_not_fit_are_refused_by_their_field(
    registry: Path, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    for values, field in (({"agee": 3}, "user_features.agee"), ({"age": "old"}, "user_features.age")):
        with pytest.raises(InvalidRequest) as refused:
            await rank(registry, redis_server.url, query("712", InlineUser(values)))
        assert refused.value.errors[0].field == field
