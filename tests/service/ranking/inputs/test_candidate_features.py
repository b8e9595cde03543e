"""Tests the candidates' own features: packed as one candidate at a time, counted if missing, refused if wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from ranked_once import rank
from synthetic_bundle import SCHEMA, go_live, publish, scores_by_hand

from export.declare import declare
from features import FeatureSchema
from features.layouts import Layouts
from loop.join.served import graph_inputs_of
from service.errors import InvalidRequest
from service.ranking.exposure import ExposurePacker
from service.ranking.inputs.candidate_features import CandidateValues, candidate_values
from service.ranking.query import Query
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.keys import item_key

CANDIDATE: list[dict[str, Any]] = [
    {"name": "price_now", "type": "numeric", "transform": "log1p"},
    {"name": "retrieval", "type": "categorical"},
    {"name": "badges", "type": "multi_categorical", "max_values": 2},
]
WITH_OWN = SCHEMA | {"candidate": CANDIDATE}
CONTEXT = {"tab": 1, "hour": 2}
OWN: dict[int, dict[str, object]] = {
    0: {"price_now": 12.5, "retrieval": "two_tower", "badges": ["new", 3]},
    1: {"price_now": 7, "retrieval": 12, "badges": []},
    2: {"price_now": None, "retrieval": None, "badges": None, "tag": "other"},
}
IDS = ["0", "1", "2"]


def layouts_with(required: bool = False) -> Layouts:
    own = [CANDIDATE[0] | ({"required": True} if required else {}), *CANDIDATE[1:]]
    return Layouts.of(FeatureSchema.model_validate(SCHEMA | {"candidate": own}))


def packed(own: Mapping[int, Mapping[str, object]], count: int, required: bool = False) -> CandidateValues:
    return [values for values in candidate_values(layouts_with(required), own, count) if values is not None][-1]


@pytest.fixture
def with_own(tmp_path: Path) -> Path:
    publish(tmp_path / "registry", "1", schema=WITH_OWN)
    go_live(tmp_path / "registry", "1")
    return tmp_path / "registry"


def test_rows_equal_those_of_one_candidate_at_a_time() -> None:
    layout = layouts_with().candidate
    own = {place: {n: v for n, v in values.items() if n != "tag"} for place, values in OWN.items()}
    values = packed(OWN, 4)
    assert values.rows is not None
    assert values.rows.tobytes() == b"".join(layout.pack(own.get(place, {})) for place in range(4))
    assert values.own_items == {2: {"tag": "other"}}
    assert values.missing == {"price_now", "retrieval", "badges"}, "the last candidate brings none"
    assert packed(OWN, 3).missing == frozenset(), "null states that there is no value"


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"price_now": "12"}, r"candidates\[1\]\.features\.price_now: a numeric value is a number or null, not str"),
        ({"price_now": True}, r"candidates\[1\]\.features\.price_now: a numeric value is a number"),
        ({"price_now": 1e39}, r"candidates\[1\]\.features\.price_now: a numeric value lies within"),
        ({"price_now": 10**400}, r"candidates\[1\]\.features\.price_now: an integer has at most 64 bits"),
        ({"price_now": 2**64}, r"candidates\[1\]\.features\.price_now: an integer has at most 64 bits"),
        ({"price_now": -(2**63) - 1}, r"candidates\[1\]\.features\.price_now: an integer has at most 64 bits"),
        ({"price_now": float("nan")}, r"candidates\[1\]\.features\.price_now: NaN"),
        ({"retrieval": 1.5}, r"candidates\[1\]\.features\.retrieval: a categorical value is a string or an integer"),
        ({"retrieval": 2**64}, r"candidates\[1\]\.features\.retrieval: an integer has at most 64 bits"),
        ({"retrieval": "x" * 600}, r"candidates\[1\]\.features\.retrieval: a categorical value has at most 512"),
        ({"badges": "new"}, r"candidates\[1\]\.features\.badges: a multi-valued feature is a list"),
        ({"price_noe": 1}, r"candidates\[1\]\.features\.price_noe: unknown feature; did you mean 'price_now'"),
    ],
)
def test_a_value_that_does_not_fit_names_its_candidate(own: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        packed({0: OWN[0], 1: own}, 2)


@pytest.mark.parametrize("own", [{}, {"price_now": None}])
def test_a_required_value_is_refused_if_it_is_left_out_or_null(own: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=r"candidates\[1\]\.features\.price_now: a value is required"):
        packed({0: OWN[0], 1: own}, 2, required=True)


def test_a_long_list_is_packed_in_parts() -> None:
    own = {place: {"price_now": place} for place in range(2500)}
    steps = list(candidate_values(layouts_with(), own, 2500))
    assert steps[:-1] == [None] * 9
    assert steps[-1] is not None and steps[-1].rows is not None
    np.testing.assert_array_equal(steps[-1].rows["numerics"][:, 0], np.arange(2500, dtype=np.float32))


async def test_a_ranking_scores_the_values_of_the_request(
    with_own: Path, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    layouts = layouts_with()
    for item in ("0", "1", "2"):
        store.set(item_key(layouts.fingerprint, item), layouts.item.pack({"item_id": item, "price": 1.0}))
    ranking = await rank(with_own, redis_server.url, Query("712", IDS, OWN, CONTEXT))
    rows = packed(OWN, 3).rows
    assert rows is not None
    inputs = ranking.computation.inputs
    assert inputs["candidate_numerics"].tobytes() == rows["numerics"].tobytes()
    expected = scores_by_hand(inputs)
    np.testing.assert_allclose(ranking.computation.predictions[0], expected["pctr"], rtol=1e-5)
    assert not any(str(reason).startswith("missing") for reason in ranking.degraded)
    # The exposure has them too, in the order of the answer, and names the items with features of the request.
    row = ExposurePacker(500, with_cut=False).packed(("r", 0, Query("712", IDS, OWN, CONTEXT), ranking))
    places = row["places"]
    assert row["candidate_keys"] == rows["keys"][places].tobytes()
    assert row["candidate_numerics"] == rows["numerics"][places].tobytes()
    assert row["items_of_request"] == [2]


async def test_missing_values_are_counted_by_feature(with_own: Path, redis_server: EmbeddedRedis) -> None:
    own: dict[int, dict[str, object]] = {0: OWN[0], 1: {"price_now": 3.0}}
    ranking = await rank(with_own, redis_server.url, Query("712", ["0", "1"], own, CONTEXT))
    assert "missing_features:2" in map(str, ranking.degraded)
    ranking = await rank(with_own, redis_server.url, Query("712", ["0", "1"], {}, CONTEXT))
    assert "missing_features:3" in map(str, ranking.degraded)
    assert np.isnan(ranking.computation.inputs["candidate_numerics"]).all()


async def test_a_schema_without_them_refuses_them_by_name(registry: Path, redis_server: EmbeddedRedis) -> None:
    with pytest.raises(InvalidRequest, match=r"candidates\[0\]\.features\.price_now: unknown feature"):
        await rank(registry, redis_server.url, Query("712", ["0"], {0: {"price_now": 1.0}}, CONTEXT))


async def test_the_log_has_whole_rows_with_the_columns_that_only_rules_read(
    tmp_path: Path, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    """A training reads the log by the version's schema, which is wider than its graph."""
    registry = tmp_path / "registry"
    publish(registry, "1")
    features = tmp_path / "features.yaml"
    counter = "{name: clicks, statistic: count, by: item, actions: [click], window_s: 3600, bucket_s: 600}"
    features.write_text(
        f"item: [{{name: stock, type: numeric}}]\ncandidate: [{{name: margin, type: numeric}}]\ncounters: [{counter}]\n"
    )
    layouts = Layouts.of(declare(registry / "synthetic" / "1", features, registry).feature_schema)
    go_live(registry, "2")
    for item in IDS:
        store.set(item_key(layouts.fingerprint, item), layouts.item.pack({"item_id": item, "stock": float(item)}))
    query = Query("712", IDS, {place: {"margin": 10.0 + place} for place in range(3)}, CONTEXT)
    ranking = await rank(registry, redis_server.url, query)
    row = ExposurePacker(500, with_cut=False).packed(("r", 0, query, ranking))
    logged = graph_inputs_of(row, layouts)
    assert logged["item_numerics"][:, -1].tolist() == [float(item) for item in row["item_ids"]]
    assert logged["candidate_numerics"][:, -1].tolist() == [10.0 + place for place in row["places"].tolist()]
    assert logged["counter_numerics"].tolist() == [[0.0]] * 3
    # The same rows give the same scores again.
    bundle = ranking.live.bundle
    again = bundle.score(bundle.graph_inputs(logged))
    np.testing.assert_array_equal(again.ravel(), row["predictions"])


async def test_a_candidates_source_is_the_value_of_the_feature_source(
    tmp_path: Path, redis_server: EmbeddedRedis
) -> None:
    registry = tmp_path / "registry"
    schema = SCHEMA | {"candidate": [{"name": "source", "type": "categorical", "required": True}]}
    publish(registry, "1", schema=schema)
    go_live(registry, "1")
    by_source = Query("712", IDS, {2: {"source": "own"}}, CONTEXT, sources=["two_tower", "popular", "popular"])
    by_feature = {place: {"source": value} for place, value in enumerate(("two_tower", "popular", "own"))}
    given, sent = [
        await rank(registry, redis_server.url, query) for query in (by_source, Query("712", IDS, by_feature, CONTEXT))
    ]
    assert given.computation.inputs["candidate_keys"].tobytes() == sent.computation.inputs["candidate_keys"].tobytes()
    assert given.computation.scores.tobytes() == sent.computation.scores.tobytes()
    with pytest.raises(InvalidRequest, match=r"candidates\[1\]\.features\.source: a value is required"):
        await rank(registry, redis_server.url, Query("712", IDS, {}, CONTEXT, sources=["a", None, "b"]))
