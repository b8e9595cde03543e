"""Tests rankings of a brown-out on a worker: which step is taken, and what the answer says."""

from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from synthetic_bundle import SCHEMA, publish

from service.bundle.registry import Target
from service.documents import Edit
from service.metrics.metrics import Metrics
from service.ranking.deadline import Deadline
from service.ranking.query import InlineBehaviour, InlineUser, Query, Ranking, RankingOptions
from service.ranking.ranker import Ranker
from service.rollout.following.follower import Follower
from service.rollout.lines.changes import change_rollout
from service.rollout.rollout import read_rollout
from service.rollout.trials.brownout_loss import ndcg
from service.sample.embedded_redis import EmbeddedRedis
from service.settings import Settings
from service.store.opening import open_store

NOW = 1_700_000_000_000
CONTEXT = {"tab": 1, "hour": 2}
BEHAVIOURS = [InlineBehaviour(str(i), "click", "home", NOW - 1000 * i) for i in range(1, 6)]


@pytest.fixture
async def ranker(registry: Path, redis_server: EmbeddedRedis, store: redis.Redis) -> AsyncIterator[Ranker]:
    metrics = Metrics()
    with closing(open_store(redis_server.url, 20_000)) as reader:
        follower = Follower(Settings(registry=registry), None, reader, metrics)
        await follower.step()
        yield Ranker(follower, reader, metrics)
        follower.close()


def query(candidates: int = 100, user_id: str = "712", behaviours: int = 5) -> Query:
    ids = [str(i) for i in range(candidates)]
    inline = InlineUser(behaviours=BEHAVIOURS[:behaviours])
    return Query(user_id, ids, {}, CONTEXT, RankingOptions(timestamp=NOW), inline_user=inline)


def reasons(ranking: Ranking) -> list[str]:
    return [text for text in map(str, ranking.degraded) if text.startswith("brownout")]


async def test_step_one_ranks_as_a_user_with_the_newest_behaviours_alone(ranker: Ranker) -> None:
    reduced = await ranker.rank(query(), Deadline(60_000), step=1)
    short = await ranker.rank(query(behaviours=1), Deadline(60_000))
    full = await ranker.rank(query(), Deadline(60_000))
    assert reasons(reduced) == ["brownout:1"] and reasons(short) == reasons(full) == []
    assert reduced.computation.scores.tobytes() == short.computation.scores.tobytes()
    assert reduced.computation.scores.tobytes() != full.computation.scores.tobytes()
    assert len(reduced.computation.inputs["behaviour_times"]) == 1
    assert reduced.computation.coverage == (100, 100)
    page = (await ranker.metrics.page()).decode()
    assert 'funnelrank_brownout_rankings_total{step="1"} 1.0' in page
    assert 'funnelrank_degraded_total{reason="brownout"} 1.0' in page


@pytest.mark.parametrize("step", [1, 2, 3])
async def test_a_step_that_saves_nothing_is_not_reported(ranker: Ranker, step: int) -> None:
    reduced = await ranker.rank(query(behaviours=1), Deadline(60_000), step=step)
    full = await ranker.rank(query(behaviours=1), Deadline(60_000))
    assert [str(d) for d in reduced.degraded] == [str(d) for d in full.degraded]
    assert reduced.computation.scores.tobytes() == full.computation.scores.tobytes()


async def test_without_a_small_bundle_step_two_is_step_one(ranker: Ranker) -> None:
    first, second = [await ranker.rank(query(), Deadline(60_000), step=step) for step in (1, 2)]
    assert reasons(first) == reasons(second) == ["brownout:1"]
    assert first.computation.scores.tobytes() == second.computation.scores.tobytes()


async def test_recent_requests_keep_all_their_behaviours(ranker: Ranker) -> None:
    """They are what new versions are compared on."""
    await ranker.rank(query(), Deadline(60_000), step=1)
    (assembly,) = ranker.follower.observers.recent.of(ranker.follower.current().bundle.layouts.inputs_fingerprint)
    assert len(assembly.inputs["behaviour_times"]) == 5


@pytest.fixture
async def pair(ranker: Ranker, registry: Path) -> Ranker:
    """The ranker with a small bundle for the first pass, whose scores differ."""
    publish(registry, "1", name="small", bias=2.0)
    change_rollout(registry, {"first_pass": Target(name="small", version="1")}, Edit("test"))
    await ranker.follower.step()
    assert ranker.follower.snapshot.default.first_pass is not None
    return ranker


async def test_the_best_of_the_first_pass_are_scored_by_the_full_model_and_lead(pair: Ranker) -> None:
    full = await pair.rank(query(300, behaviours=1), Deadline(60_000))
    reduced = await pair.rank(query(300, behaviours=1), Deadline(60_000), step=2)
    assert reasons(reduced) == ["brownout:2"]
    assert reduced.live.bundle.label == "synthetic/1"
    assert reduced.computation.coverage == (300, 30)
    # By hand: the small model's fused scores choose, the full model's fused scores stand.
    small = pair.follower.snapshot.default.first_pass
    assert small is not None
    inputs = full.computation.inputs
    estimates = small.fusion.formulas[full.formula.profile].fuse(small.bundle.score(small.bundle.graph_inputs(inputs)))
    best = np.sort(np.argsort(-estimates, kind="stable")[:30])
    rest = np.setdiff1d(np.arange(300), best)
    scores = reduced.computation.scores
    assert np.allclose(scores[best], full.computation.scores[best], rtol=1e-6)
    assert scores[rest].max() < scores[best].min()
    in_order = [int(item) for item in reduced.ranked.item_ids]
    assert set(in_order[:30]) == set(best.tolist())
    assert in_order[30:] == rest[np.argsort(-estimates[rest], kind="stable")].tolist()
    # No number of the small model is called a prediction of the full one.
    predictions = reduced.computation.predictions
    assert np.allclose(predictions[:, best], full.computation.predictions[:, best], rtol=1e-6)
    assert np.isnan(predictions[:, rest]).all()


@pytest.mark.parametrize("candidates", [10, 300])
async def test_the_small_version_alone_ranks_all_in_step_three(pair: Ranker, candidates: int) -> None:
    full = await pair.rank(query(candidates, behaviours=1), Deadline(60_000))
    reduced = await pair.rank(query(candidates, behaviours=1), Deadline(60_000), step=3)
    assert reasons(reduced) == ["brownout:3"]
    assert reduced.live.bundle.label == "synthetic/1"
    assert reduced.computation.coverage == (candidates, 0)
    small = pair.follower.snapshot.default.first_pass
    assert small is not None
    inputs = full.computation.inputs
    by_hand = small.fusion.formulas[full.formula.profile].fuse(small.bundle.score(small.bundle.graph_inputs(inputs)))
    assert np.allclose(reduced.computation.scores, by_hand, rtol=1e-6)
    assert [int(item) for item in reduced.ranked.item_ids] == np.argsort(-by_hand, kind="stable").tolist()
    assert np.isnan(reduced.computation.predictions).all(), "no number of the small model is one of the full model's"


async def test_step_two_reads_fewer_behaviours_in_both_passes(pair: Ranker) -> None:
    long, short = [await pair.rank(query(300, behaviours=n), Deadline(60_000), step=2) for n in (5, 1)]
    assert long.computation.scores.tobytes() == short.computation.scores.tobytes()


async def test_a_list_that_the_full_model_scores_whole_needs_no_first_pass(pair: Ranker) -> None:
    reduced = await pair.rank(query(20, behaviours=5), Deadline(60_000), step=2)
    assert reasons(reduced) == ["brownout:1"]
    assert reduced.computation.coverage == (20, 20)


async def test_a_first_pass_that_fails_leaves_all_candidates_to_the_full_model(
    pair: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = pair.follower.snapshot.default.first_pass
    assert small is not None
    broken = replace(small, bundle=replace(small.bundle, session=None))
    versions = pair.follower.versions
    line = replace(versions.snapshot.default, first_pass=broken)
    monkeypatch.setattr(versions, "snapshot", versions.snapshot.with_line(line))
    reduced = await pair.rank(query(300), Deadline(60_000), step=2)
    first_step = await pair.rank(query(300), Deadline(60_000), step=1)
    assert reasons(reduced) == ["brownout:1"]
    assert reduced.computation.scores.tobytes() == first_step.computation.scores.tobytes()


async def test_a_full_model_that_fails_leaves_the_order_of_the_first_pass(
    pair: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    stable = pair.follower.current()
    broken = replace(stable, bundle=replace(stable.bundle, session=None))
    versions = pair.follower.versions
    line = replace(versions.snapshot.default, stable=broken)
    monkeypatch.setattr(versions, "snapshot", versions.snapshot.with_line(line))
    reduced = await pair.rank(query(300), Deadline(60_000), step=2)
    assert {"model_failed", "brownout:2"} <= set(map(str, reduced.degraded))
    assert reduced.computation.coverage == (300, 0)
    assert np.isfinite(reduced.computation.scores).all()
    assert reduced.ranked.item_ids != query(300).item_ids


async def test_the_gate_measures_the_loss_of_each_step_when_the_pair_is_named(ranker: Ranker, registry: Path) -> None:
    for user in range(12):
        await ranker.rank(query(300, f"user {user}"), Deadline(60_000))
    publish(registry, "1", name="small", bias=2.0)
    change_rollout(registry, {"first_pass": Target(name="small", version="1")}, Edit("test"))
    await ranker.follower.step()
    first = ranker.follower.loader.reports["small/1"]
    assert first.against == "synthetic/1"
    assert set(first.brownout) == {"brownout:1", "brownout:2", "brownout:3"}
    assert all(0 <= loss < 1 for loss in first.brownout.values())
    # The losses of steps 2 and 3, measured on the answers themselves.
    losses: dict[int, list[float]] = {2: [], 3: []}
    for user in range(12):
        full, *reduced = [
            (await ranker.rank(query(300, f"user {user}"), Deadline(60_000), step=step)).computation.scores
            for step in (0, 2, 3)
        ]
        for step, scores in zip(losses, reduced, strict=True):
            losses[step].append(1 - ndcg(scores, full))
    for step, of_step in losses.items():
        assert first.brownout[f"brownout:{step}"] == pytest.approx(np.mean(of_step), abs=1e-4)
    # A new stable version is measured with the first pass that is there.
    publish(registry, "2", bias=0.1)
    change_rollout(registry, {"stable": Target(name="synthetic", version="2")}, Edit("test"))
    await ranker.follower.step()
    assert set(ranker.follower.loader.reports["synthetic/2"].brownout) == set(first.brownout)


@pytest.mark.parametrize("group", ["item", "context"])
async def test_a_first_pass_of_another_schema_is_refused(ranker: Ranker, registry: Path, group: str) -> None:
    publish(registry, "1", name="small", schema=SCHEMA | {group: [*SCHEMA[group], {"name": "x", "type": "numeric"}]})
    change_rollout(registry, {"first_pass": Target(name="small", version="1")}, Edit("test"))
    await ranker.follower.step()
    assert ranker.follower.snapshot.default.first_pass is None
    (refusal,) = ranker.follower.refusals.entries
    assert (refusal.target, refusal.code) == ("small/1", "schema_differs")
    # It is withdrawn from the document.
    assert read_rollout(registry).first_pass is None


async def test_a_stable_version_of_another_context_is_loaded_without_a_comparison(pair: Ranker, registry: Path) -> None:
    """It cannot score the requests that were assembled for the version before it, nor can the first pass score its."""
    await pair.rank(query(300), Deadline(60_000))
    publish(registry, "2", schema=SCHEMA | {"context": [*SCHEMA["context"], {"name": "x", "type": "numeric"}]})
    change_rollout(registry, {"stable": Target(name="synthetic", version="2")}, Edit("test"))
    await pair.follower.step()
    assert pair.follower.current().bundle.label == "synthetic/2"
    assert pair.follower.loader.reports["synthetic/2"].requests == 0
    reduced = await pair.rank(query(300), Deadline(60_000), step=2)
    assert reasons(reduced) == ["brownout:1"]
