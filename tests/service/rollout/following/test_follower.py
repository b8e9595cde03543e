"""Tests the follower inside one worker: swaps, freed bundles, refusals."""

import gc
import json
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis

from features import FeatureSchema
from service.bundle.registry import Target
from service.documents import Edit
from service.errors import NotReady
from service.metrics.metrics import Metrics
from service.rollout.following.follower import Follower
from service.rollout.lines.changes import change_rollout
from service.rollout.rollout import ROLLOUT_FILE, read_rollout
from service.sample.embedded_redis import EmbeddedRedis
from service.settings import Settings
from service.store.opening import open_store
from service.store.redis.loading.schemas import register_schema


def follower_of(registry: Path, url: str) -> Follower:
    return Follower(Settings(registry=registry, max_candidates=50), None, open_store(url, 20_000), Metrics())


async def test_the_old_bundle_goes_with_its_last_request(
    registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: object
) -> None:
    follower = follower_of(registry, redis_server.url)
    await follower.step()
    in_request = follower.current()
    old = weakref.ref(in_request.bundle.session)
    kit.publish(registry, "2", bias=1.0)
    kit.go_live(registry, "2")
    await follower.step()
    assert follower.current().bundle.label == "synthetic/2"
    assert in_request.bundle.label == "synthetic/1"
    assert old() is not None
    del in_request
    gc.collect()
    assert old() is None
    follower.reader.close()


async def test_an_unchanged_document_costs_one_look_and_no_load(
    registry: Path, redis_server: EmbeddedRedis, store: object
) -> None:
    follower = follower_of(registry, redis_server.url)
    await follower.step()
    live = follower.current()
    for _ in range(5):
        await follower.step()
    assert follower.current() is live
    follower.reader.close()


async def test_without_a_document_there_is_no_model_until_one_is_written(
    registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis
) -> None:
    (registry / ROLLOUT_FILE).unlink()
    follower = follower_of(registry, redis_server.url)
    for _ in range(3):
        await follower.step()
    with pytest.raises(NotReady, match=r"rollout.json does not exist"):
        follower.current()
    assert len(follower.refusals.entries) == 1
    kit.go_live(registry, "1")
    await follower.step()
    assert follower.current().bundle.label == "synthetic/1"
    follower.reader.close()


async def test_a_version_that_was_refused_is_tried_again_when_the_document_changes(
    registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis
) -> None:
    follower = follower_of(registry, redis_server.url)
    await follower.step()
    kit.go_live(registry, "2")
    for _ in range(3):
        await follower.step()
    withdrawn = read_rollout(registry)
    assert (withdrawn.stable.version, withdrawn.author, withdrawn.revision) == ("1", "automatic", 3)
    assert [r.code for r in follower.refusals.entries] == ["bundle_missing"]
    kit.go_live(registry, "2")
    await follower.step()
    assert [r.code for r in follower.refusals.entries] == ["bundle_missing"] * 2
    kit.publish(registry, "2")
    kit.go_live(registry, "2")
    await follower.step()
    assert follower.current().bundle.label == "synthetic/2"
    kit.go_live(registry, "2")
    await follower.step()
    assert follower.current().revision == 7, "two changes back by the worker among them"
    follower.reader.close()


async def test_a_version_that_two_lines_share_waits_for_its_schema_in_both(
    registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis, schema: FeatureSchema
) -> None:
    """It used to rank with default values, because the second line ended every step with an error."""
    other = json.loads(json.dumps(kit.SCHEMA))
    other["item"].append({"name": "colour", "type": "categorical"})
    register_schema(store, FeatureSchema.model_validate(other))
    change_rollout(registry, {"line": "item_page", "stable": Target(name="synthetic", version="1")}, Edit("ann"))
    follower = follower_of(registry, redis_server.url)
    for _ in range(3):
        await follower.step()
        with pytest.raises(NotReady, match="schema_not_loaded"):
            follower.current()
        assert follower.snapshot.lines["item_page"].not_serving is not None
    register_schema(store, schema)
    for _ in range(2):
        await follower.step()
    assert [line.current().bundle.label for line in follower.snapshot.lines.values()] == ["synthetic/1"] * 2
    follower.reader.close()


async def test_a_line_that_has_ended_no_longer_counts_as_a_fallback(
    registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: object
) -> None:
    """Its series used to stay at 1, and so did its alert."""
    kit.publish(registry, "2")
    change_rollout(registry, {"line": "item_page", "stable": Target(name="synthetic", version="2")}, Edit("ann"))
    (registry / "synthetic/2/model.onnx").unlink()
    follower = follower_of(registry, redis_server.url)

    def fallbacks() -> dict[str, float]:
        samples = next(iter(follower.loader.metrics.fallback.collect())).samples
        return {sample.labels["line"]: sample.value for sample in samples}

    await follower.step()
    assert fallbacks() == {"": 0, "default": 0, "item_page": 1}
    change_rollout(registry, {"line": "item_page", "stable": None}, Edit("ann"))
    await follower.step()
    assert fallbacks() == {"": 0, "default": 0, "item_page": 0}
    follower.reader.close()
