"""Tests that the rights which the docs name are enough: for a user of Redis that reads, and for one that writes."""

from collections.abc import Iterator

import numpy as np
import pytest
import redis
from counted_log import SCHEMA
from redis_rights import rights

from features import FeatureSchema
from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store.counters import CountedEvent, counter_writes
from service.store.opening import open_store, open_writer
from service.store.shown import ShownItem, packed_by_user

DAY_MS = 86_400_000


@pytest.fixture
def restricted(redis_server: EmbeddedRedis, store: redis.Redis, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a user with the rights of a reading or of a writing user."""
    allowed = rights("An ACL user that reads needs")
    if request.param == "writes":
        allowed += rights("one that writes also")
    store.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">hush", *allowed)
    yield redis_server.url.replace("redis://", "redis://limited:hush@")
    store.execute_command("ACL", "DELUSER", "limited")


@pytest.mark.parametrize("restricted", ["reads"], indirect=True)
async def test_a_user_that_reads_may_read_all_of_a_ranking(restricted: str, layouts: Layouts) -> None:
    reader = open_store(restricted, 5000)
    try:
        stored = await reader.fetch(layouts, "712", ["1", "2"], 5, 1_700_000_000_000, shown=True)
        assert stored.unread == 0
    finally:
        reader.close()


@pytest.mark.parametrize("restricted", ["writes"], indirect=True)
async def test_a_user_that_writes_may_write_all_that_callers_send(restricted: str, layouts: Layouts) -> None:
    assert layouts.behaviour is not None
    item = layouts.item.pack({"item_id": "5"})
    event = bytes(8) + layouts.behaviour.pack_event(item, "click", 1, 1_700_000_000_000)
    writer = open_writer(restricted, 5000)
    try:
        await writer.merge_rows(layouts, "item", {"5": {"price": 2.0}})
        assert await writer.add_behaviours(layouts, {"712": [(1_700_000_000_000, event)]}) == 1
        assert await writer.claim_ids("impressions", [bytes(16)]) == [True]
        shown = packed_by_user([ShownItem("712", "5", 1_700_000_000_000, False)])
        assert await writer.add_shown(shown, DAY_MS) == 1
        counted = Layouts.of(FeatureSchema.model_validate(SCHEMA))
        events = [CountedEvent("712", "5", "click", "home", 1_700_000_000_000)]
        await writer.add_counts(counted, counter_writes(counted, events, {"5": np.array([1, 2])}))
        await writer.record_uses({"3fa94c1b02d7": 5})
        assert await writer.last_uses() == {"3fa94c1b02d7": 5}
    finally:
        await writer.close()
