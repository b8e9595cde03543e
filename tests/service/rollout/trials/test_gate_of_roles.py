"""Tests that every version passes the gate before it takes traffic, whatever it read or did before."""

import json
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from synthetic_bundle import SCHEMA, go_live, golden_inputs, publish

from features import FeatureSchema
from service.bundle.registry import Target
from service.documents import Edit
from service.fusion import FusionProfiles
from service.fusion.document import DOCUMENT as FUSION
from service.metrics.metrics import Metrics
from service.ranking.deadline import Deadline
from service.ranking.query import Query, RankingOptions
from service.ranking.ranker import Ranker
from service.rollout.following.follower import Follower
from service.rollout.lines.changes import change_rollout
from service.rollout.observing.observers import AnsweredRanking
from service.rollout.recent import Assembly
from service.rollout.rollout import Canary, read_rollout
from service.sample.embedded_redis import EmbeddedRedis
from service.settings import Settings
from service.store.opening import open_store
from service.store.redis.loading.schemas import register_schema

USERS = 40


@pytest.fixture
async def follower(registry: Path, redis_server: EmbeddedRedis, store: redis.Redis) -> AsyncIterator[Follower]:
    with closing(open_store(redis_server.url, 20_000)) as reader:
        made = Follower(Settings(registry=registry, max_candidates=50), None, reader, Metrics())
        await made.step()
        yield made
        made.close()


def show_requests(follower: Follower) -> None:
    """Give the follower recent requests of different users."""
    layouts = follower.current().bundle.layouts
    for user in range(USERS):
        inputs: dict[str, np.ndarray] = golden_inputs(layouts)
        inputs["user_keys"] = inputs["user_keys"] + user
        follower.observers.recent.add(Assembly(layouts.inputs_fingerprint, str(user), inputs, ["1"] * 64))


@pytest.mark.parametrize(
    "changes",
    [
        {"stable": Target(name="small", version="1")},
        {"canary": Canary(name="small", version="1", percent=50)},
        {"canary": Canary(name="small", version="1", percent=50), "first_pass": None},
    ],
)
async def test_a_first_pass_that_becomes_stable_or_canary_passes_the_gate_first(
    registry: Path, follower: Follower, changes: dict[str, Any]
) -> None:
    """Its scores only chose candidates until now, so nothing has compared them with the stable version's."""
    publish(registry, "1", name="small", bias=20.0)
    show_requests(follower)
    change_rollout(registry, {"first_pass": Target(name="small", version="1")}, Edit("ann"))
    await follower.step()
    assert follower.snapshot.default.first_pass is not None
    change_rollout(registry, changes, Edit("ann"))
    await follower.step()
    line = follower.snapshot.default
    assert line.current().bundle.label == "synthetic/1"
    assert line.canary is None
    assert [refusal.code for refusal in follower.refusals.entries] == ["score_drift"]
    document = read_rollout(registry)
    assert (document.author, document.stable.name, document.canary) == ("automatic", "synthetic", None)


async def test_a_version_that_reads_the_time_of_the_request_is_compared_with_one_that_does_not(
    tmp_path: Path, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    """Without behaviours, only a derived feature needs the time."""
    timeless: dict[str, Any] = json.loads(json.dumps(SCHEMA))
    del timeless["behaviour"]
    timed = {**timeless, "derived": [{"name": "hour_of_day", "type": "hour"}]}
    registry = tmp_path / "registry"
    publish(registry, "1", schema=timeless)
    publish(registry, "2", schema=timed)
    go_live(registry, "1")
    register_schema(store, FeatureSchema.model_validate(timeless))
    metrics = Metrics()
    with closing(open_store(redis_server.url, 20_000)) as reader:
        follower = Follower(Settings(registry=registry), None, reader, metrics)
        await follower.step()
        ids = [str(place) for place in range(20)]
        query = Query("712", ids, {}, {"tab": 1, "hour": 2}, RankingOptions(timestamp=1_700_000_000_000))
        await Ranker(follower, reader, metrics).rank(query, Deadline(60_000))
        go_live(registry, "2")
        await follower.step()
        assert follower.current().bundle.label == "synthetic/2"
        assert follower.loader.reports["synthetic/2"].requests == 1
        follower.close()


async def test_a_stable_version_is_loaded_beside_a_first_pass_that_fails(registry: Path, follower: Follower) -> None:
    publish(registry, "1", name="small")
    change_rollout(registry, {"first_pass": Target(name="small", version="1")}, Edit("ann"))
    await follower.step()
    show_requests(follower)
    first = follower.snapshot.default.first_pass
    assert first is not None
    object.__setattr__(first.bundle, "session", None)
    publish(registry, "2")
    go_live(registry, "2")
    await follower.step()
    assert follower.current().bundle.label == "synthetic/2"
    assert follower.loader.reports["synthetic/2"].requests == USERS
    assert follower.loader.reports["synthetic/2"].brownout == {}


async def test_a_ranking_whose_line_ended_meanwhile_is_no_fault(
    registry: Path, follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    publish(registry, "2")
    change_rollout(registry, {"shadow": Target(name="synthetic", version="2")}, Edit("ann"))
    await follower.step()
    line = follower.snapshot.default
    live = line.current()
    assert line.shadow is not None
    request = Assembly(live.bundle.layouts.inputs_fingerprint, "712", golden_inputs(live.bundle.layouts), ["1"] * 64)
    predictions = live.bundle.score(live.bundle.graph_inputs(request.inputs))
    formula, _ = live.fusion.for_user(None, "712")
    ranking = AnsweredRanking(line, live, formula.profile, request, predictions, predictions[0], failed=False)
    follower.observers.follow(replace(follower.snapshot, lines={}))
    follower.observers.answered(ranking)
    assert "could not be observed" not in caplog.text


async def test_new_profiles_are_taken_up_although_the_live_version_fails(registry: Path, follower: Follower) -> None:
    show_requests(follower)
    object.__setattr__(follower.current().bundle, "session", None)
    profiles = FusionProfiles.model_validate(
        {"profiles": {"default": {"kind": "weighted_sum", "weights": {"pctr": 1}}}}
    )
    FUSION.change(registry, FUSION.whole(profiles), Edit("ann"))
    await follower.step()
    assert follower.snapshot.described()["fusion_revision"] == 1


async def test_a_document_that_cannot_be_tried_now_is_tried_again_and_holds_up_no_other(
    registry: Path, follower: Follower
) -> None:
    """Too many threads may wait for a disk that hangs; the news of all documents used to be lost then."""
    profiles = FusionProfiles.model_validate(
        {"profiles": {"default": {"kind": "weighted_sum", "weights": {"pctr": 1}}}}
    )
    FUSION.change(registry, FUSION.whole(profiles), Edit("ann"))
    publish(registry, "2")
    go_live(registry, "2")
    run = follower.loader.background.run
    refused: list[str] = []

    async def once_refused(work: Any, seconds: float | None = None) -> Any:
        if not refused:
            refused.append("once")
            raise TimeoutError(110, "32 calls wait already for the registry")
        return await run(work, seconds)

    follower.loader.background.run = once_refused  # type: ignore[method-assign]
    await follower.step()
    assert follower.current().bundle.label == "synthetic/2"
    assert [refusal.code for refusal in follower.refusals.entries] == ["fusion_not_tried"]
    await follower.step()
    assert follower.snapshot.described()["fusion_revision"] == 1


async def test_two_lines_that_share_a_version_have_a_report_each(registry: Path, follower: Follower) -> None:
    change_rollout(registry, {"line": "item_page", "stable": Target(name="synthetic", version="1")}, Edit("ann"))
    await follower.step()
    show_requests(follower)
    publish(registry, "2")
    change_rollout(registry, {"line": "item_page", "stable": Target(name="synthetic", version="2")}, Edit("ann"))
    await follower.step()
    go_live(registry, "2")
    await follower.step()
    reports = follower.loader.reports
    assert set(reports) == {"synthetic/2", "item_page synthetic/2"}
    assert [reports[name].requests for name in sorted(reports)] == [0, USERS], "the line had no requests of its own"
    change_rollout(registry, {"line": "item_page", "stable": None}, Edit("ann"))
    await follower.step()
    assert set(follower.loader.reports) == {"synthetic/2"}
