"""Tests rankings whose rules read a vector that the graph gives out."""

from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from synthetic_bundle import TASKS, go_live, publish, vectors_by_hand, with_vectors

from service.bundle.registry import Target
from service.documents import Edit
from service.fusion import FusionProfiles
from service.metrics.metrics import Metrics
from service.ranking.deadline import Deadline
from service.ranking.query import Query, RankingOptions
from service.ranking.ranker import Ranker
from service.rollout.following.follower import Follower
from service.rollout.lines.changes import change_rollout
from service.rollout.serving import Live
from service.rules.definition.document import DOCUMENT
from service.rules.definition.rule_sets import RuleSets
from service.rules.order.diversity import diversified
from service.sample.embedded_redis import EmbeddedRedis
from service.settings import Settings
from service.store.opening import open_store

DIVERSITY: dict[str, Any] = {"type": "diversity", "method": "mmr", "weight": 0.7, "vector": {"output": "item_vector"}}
CANDIDATES = 60
PROFILES = FusionProfiles.model_validate(
    {
        "profiles": {"default": {"kind": "weighted_sum", "weights": {"pctr": 1}}},
        "scenes": dict.fromkeys(("plain", "by_task", "by_feature"), "default"),
    }
)


@pytest.fixture
async def ranker(tmp_path: Path, redis_server: EmbeddedRedis, store: redis.Redis) -> AsyncIterator[Ranker]:
    registry = tmp_path / "registry"
    with_vectors(publish(registry, "1"))
    go_live(registry, "1")
    rules = {"default": [DIVERSITY, {"type": "pin", "item_id": "5", "position": 7}], "plain": []}
    rules |= {
        "by_task": [{"type": "boost", "formula": "score * pctr"}],
        "by_feature": [{"type": "boost", "formula": "score * price"}],
    }
    rule_sets = RuleSets.model_validate({"rules": rules})
    DOCUMENT.change(registry, DOCUMENT.whole(rule_sets), Edit("test"))
    metrics = Metrics()
    with closing(open_store(redis_server.url, 20_000)) as reader:
        follower = Follower(Settings(registry=registry), PROFILES, reader, metrics)
        await follower.step()
        yield Ranker(follower, reader, metrics)
        follower.close()


def query(count: int = CANDIDATES, scene: str | None = None) -> Query:
    rng = np.random.default_rng(3)
    numbers = rng.normal(size=(count, 2)).astype(np.float32)
    own = {i: {"price": float(a), "quality": float(b)} for i, (a, b) in enumerate(numbers)}
    options = RankingOptions(scene=scene, timestamp=1_700_000_000_000)
    return Query("712", [str(i) for i in range(count)], own, {}, options)


class Asked:
    """Counts which outputs the live version's session is asked for."""

    def __init__(self, ranker: Ranker) -> None:
        live = ranker.follower.snapshot.default.stable
        assert live is not None
        self.live: Live = live
        self._session = live.bundle.session
        self.names: list[list[str]] = []
        object.__setattr__(live.bundle, "session", self)

    def run(self, names: Any, *more: Any) -> Any:
        self.names.append(list(names))
        return self._session.run(names, *more)


@pytest.mark.parametrize("chunk", [500, 7])
async def test_mmr_reads_the_vectors_of_the_graph_however_the_list_is_cut(ranker: Ranker, chunk: int) -> None:
    asked = Asked(ranker)
    ranking = await replace(ranker, chunk=chunk).rank(query(), Deadline(60_000))
    assert {tuple(names) for names in asked.names} == {(*TASKS, "item_vector")}
    assert len(asked.names) == -(-CANDIDATES // chunk)
    # By hand: MMR over the vectors, then the pin.
    vectors = vectors_by_hand({**ranking.computation.inputs, "user_numerics": np.zeros((1, 1))})["item_vector"]
    steps = diversified(ranking.computation.scores, vectors.astype(np.float64), "mmr", 0.7, 50, 10)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        expected = [str(place) for place in end.value]
    expected.remove("5")
    expected.insert(6, "5")
    assert list(ranking.ranked.item_ids) == expected
    assert ranking.rules is not None and ranking.rules.acted == {0, 1}
    by_score = np.argsort(-ranking.computation.scores, kind="stable").astype(str).tolist()
    assert expected != by_score


async def test_a_ranking_without_such_a_rule_asks_for_the_task_scores_alone(ranker: Ranker) -> None:
    asked = Asked(ranker)
    ranking = await ranker.rank(query(scene="plain"), Deadline(60_000))
    assert asked.names == [list(TASKS)]
    assert ranking.rules is None
    assert ranking.computation.predictions.shape == (len(TASKS), CANDIDATES)


async def test_where_the_model_fails_the_order_is_that_of_the_request_and_the_pin_holds(ranker: Ranker) -> None:
    class Failing:
        def run(self, *_: Any) -> Any:
            raise RuntimeError("broken")

    live = ranker.follower.snapshot.default.stable
    assert live is not None
    object.__setattr__(live.bundle, "session", Failing())
    ranking = await ranker.rank(query(10), Deadline(60_000))
    assert "model_failed" in [str(d) for d in ranking.degraded]
    assert list(ranking.ranked.item_ids) == ["0", "1", "2", "3", "4", "6", "5", "7", "8", "9"]


async def test_step_two_of_a_brownout_gives_every_candidate_its_vector(ranker: Ranker, tmp_path: Path) -> None:
    """Two passes would give vectors to some candidates only, so the full model scores all."""
    registry = tmp_path / "registry"
    with_vectors(publish(registry, "1", name="small", bias=2.0))
    change_rollout(registry, {"first_pass": Target(name="small", version="1")}, Edit("test"))
    await ranker.follower.step()
    assert ranker.follower.snapshot.default.first_pass is not None
    reduced = await ranker.rank(query(300), Deadline(60_000), step=2)
    full = await ranker.rank(query(300), Deadline(60_000))
    assert reduced.computation.coverage == (300, 300)
    assert list(reduced.ranked.item_ids) == list(full.ranked.item_ids)
    without = await ranker.rank(query(300, scene="plain"), Deadline(60_000), step=2)
    assert without.computation.coverage == (300, 30)


async def test_step_two_of_a_brownout_gives_every_candidate_the_scores_that_a_boost_reads(
    ranker: Ranker, tmp_path: Path
) -> None:
    """A boost that lowers scores would put candidates without the model's scores first."""
    registry = tmp_path / "registry"
    with_vectors(publish(registry, "1", name="small", bias=2.0))
    change_rollout(registry, {"first_pass": Target(name="small", version="1")}, Edit("test"))
    await ranker.follower.step()
    by_task = await ranker.rank(query(300, scene="by_task"), Deadline(60_000), step=2)
    by_feature = await ranker.rank(query(300, scene="by_feature"), Deadline(60_000), step=2)
    assert by_task.computation.coverage == (300, 300)
    assert by_feature.computation.coverage == (300, 30)
