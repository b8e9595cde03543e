"""Tests features that only rules read: declared for a published version, without another model."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_http
import numpy as np
import pytest
from rules_service import BY_PRICE, FUSION, ITEMS, TOKEN, hold, ids, put, rank
from synthetic_bundle import SCHEMA

from export.declare import declare
from export.publish import PublishError
from features.layouts import Layouts
from features.schemas.rule_features import RuleFeatures
from features.schemas.schema import FeatureSchema
from service.bundle.loading import load_bundle
from service.clock import now_ms
from service.sample.embedded_redis import EmbeddedRedis

FEATURES = """
item:
  - {name: stock, type: numeric}
  - {name: label, type: categorical}
candidate:
  - {name: margin, type: numeric}
  - {name: source, type: categorical}
counters:
  - {name: clicks, statistic: count, by: item, actions: [click], window_s: 3600, bucket_s: 600}
"""
WIDER = FeatureSchema.model_validate(SCHEMA)


@pytest.fixture(scope="module")
def declared(
    kit: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis
) -> Iterator[Any]:
    """A service with version 2, which is version 1 with features for rules. Items are cached for 50 ms."""
    folder: Path = tmp_path_factory.mktemp("declared")
    registry = folder / "registry"
    kit.publish(registry, "1")
    (folder / "features.yaml").write_text(FEATURES)
    (folder / "fusion.yaml").write_text(FUSION)
    manifest = declare(registry / "synthetic" / "1", folder / "features.yaml", registry)
    assert manifest.version == "2"
    kit.go_live(registry, "2")
    options = {"fusion_file": folder / "fusion.yaml", "item_cache_ttl_ms": 50, "admin_token": "secret"}
    with kit.serving(folder, registry, redis_server.url, workers=2, **options) as server:
        stocks = [{"item_id": str(i), "features": {"stock": i % 3, "label": f"l{i % 2}"}} for i in range(12)]
        answer = fresh_http.put(f"{server.url}/features/items", json={"items": stocks}, headers=TOKEN)
        assert answer.status_code == 200, answer.text
        yield server


def test_a_stored_feature_of_rules_alone_blocks_items(kit: SimpleNamespace, declared: Any) -> None:
    hold(kit, declared, {"type": "block", "when": {"feature": "stock", "below": 1}})
    kit.wait_until(lambda: ids(rank(declared)) == [i for i in BY_PRICE if int(i) % 3])


def test_a_candidates_own_number_and_source_serve_rules(kit: SimpleNamespace, declared: Any) -> None:
    margins = [item | {"features": item["features"] | {"margin": 10 * (12 - i)}} for i, item in enumerate(ITEMS)]
    hold(kit, declared, {"type": "boost", "formula": "score + margin"})
    assert ids(rank(declared, candidates=margins)) == list(reversed(BY_PRICE))
    sources = [item | {"source": "new" if i < 4 else "old"} for i, item in enumerate(ITEMS)]
    quota = {"type": "quota", "feature": "source", "one_of": ["new"], "at_least": 2, "first": 3}
    hold(kit, declared, quota)
    assert ids(rank(declared, candidates=sources))[:3] == ["11", "3", "2"]


NEW = {"item_id": "new", "features": {"price": 20, "quality": 1, "tag": "9", "topics": []}}


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        ([], []),
        ([{"type": "block", "item_ids": ["3"]}], []),
        ([{"type": "boost", "formula": "score + margin"}], ["missing_features:1"]),
        ([{"type": "block", "when": {"feature": "stock", "below": 1}}], ["missing_features:1"]),
        ([{"type": "quota", "feature": "source", "at_most": 3, "first": 9}], ["missing_features:1"]),
        (
            [
                {"type": "spread", "feature": "label", "distance": 2},
                {"type": "diversity", "method": "mmr", "weight": 0.0, "vector": ["stock", "margin"]},
            ],
            ["missing_features:3"],
        ),
    ],
)
def test_a_feature_of_rules_alone_is_missing_only_where_a_rule_reads_it(
    kit: SimpleNamespace, declared: Any, rules: list[dict[str, Any]], missing: list[str]
) -> None:
    """No candidate brings `margin` or `source`, and the new item has no row with `stock` and `label`."""
    hold(kit, declared, *rules)
    hold(kit, declared, *rules, rules={"shop": [{"type": "boost", "formula": "score + margin"}]})
    body = rank(declared, candidates=[*ITEMS, NEW], context={"tab": 1, "hour": 2})
    assert [reason for reason in body["degraded"] if reason.startswith("missing")] == missing


def test_a_feature_of_the_model_is_missing_whatever_the_rules_read(kit: SimpleNamespace, declared: Any) -> None:
    hold(kit, declared)
    without_topics = NEW | {"features": {"price": 20, "tag": "9"}}
    body = rank(declared, candidates=[without_topics], context={"tab": 1, "hour": 2})
    assert "missing_features:2" in body["degraded"]


def test_a_counter_of_rules_alone_moves_what_was_clicked(kit: SimpleNamespace, declared: Any) -> None:
    hold(kit, declared, {"type": "boost", "formula": "score + 100 * clicks"})
    event = {"user_id": "1", "item_id": "4", "action": "click", "timestamp": now_ms()}
    assert fresh_http.post(f"{declared.url}/events", json={"events": [event]}).status_code == 200
    # Each worker has item counters of its own, which may be 50 ms old.
    expected = ("4", [{"rule": "0:boost", "from": 8, "to": 1}])

    def first() -> tuple[str, list[dict[str, Any]]]:
        item = rank(declared, explain=True)["ranking"][0]
        return item["item_id"], item["moved_by"]

    kit.wait_until(lambda: first() == expected)


def test_an_unknown_feature_names_those_of_rules_alone(declared: Any) -> None:
    answer = put(declared, {"type": "block", "when": {"feature": "stok", "below": 1}})
    assert answer.status_code == 422
    assert "did you mean 'stock'" in answer.text


def test_the_scores_are_those_of_the_version_before(kit: SimpleNamespace, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    kit.publish(registry, "1")
    (tmp_path / "features.yaml").write_text(FEATURES)
    declare(registry / "synthetic" / "1", tmp_path / "features.yaml", registry)
    before, after = (load_bundle(registry / "synthetic" / version, 1, 64) for version in "12")
    assert after.narrowed == {"item_keys": 4, "item_numerics": 2}
    inputs = dict(before.golden)
    wide = inputs | {
        "item_keys": np.hstack([inputs["item_keys"], np.ones((64, 1), np.int64)]),
        "item_numerics": np.hstack([inputs["item_numerics"], np.full((64, 1), np.nan, np.float32)]),
        "counter_numerics": np.ones((64, 1), np.float32),
    }
    np.testing.assert_array_equal(after.score(after.graph_inputs(wide)), before.score(before.graph_inputs(inputs)))
    assert after.manifest.item_numerics == before.manifest.item_numerics


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("item: [{name: price, type: numeric}]", "feature 'price' is defined twice"),
        ("item: [{name: x, type: numeric, within_request: true}]", "within_request is an input of the graph"),
        ("items: [{name: x, type: numeric}]", "items"),
        ("counters: [{name: c, statistic: count, by: item, actions: [a], window_s: 7, bucket_s: 2}]", "window_s"),
    ],
)
def test_features_that_cannot_be_declared_publish_nothing(
    kit: SimpleNamespace, tmp_path: Path, text: str, problem: str
) -> None:
    registry = tmp_path / "registry"
    kit.publish(registry, "1")
    (tmp_path / "features.yaml").write_text(text)
    with pytest.raises(PublishError, match=problem):
        declare(registry / "synthetic" / "1", tmp_path / "features.yaml", registry)
    assert [path.name for path in (registry / "synthetic").iterdir()] == ["1"]


def test_features_stand_behind_those_of_the_graph() -> None:
    added = RuleFeatures.model_validate({"item": [{"name": "stock", "type": "numeric"}]})
    wider = added.behind(WIDER)
    assert list(Layouts.of(wider).item.numeric_columns) == ["price", "quality", "stock"]
    assert wider.fingerprint != WIDER.fingerprint
    only_of_candidates = RuleFeatures.model_validate({"candidate": [{"name": "margin", "type": "numeric"}]})
    assert only_of_candidates.behind(WIDER).fingerprint == WIDER.fingerprint


def test_a_preview_reads_candidates_own_numbers_and_counters(kit: SimpleNamespace, declared: Any) -> None:
    hold(kit, declared)
    margins = [item | {"features": item["features"] | {"margin": 10 * (12 - i)}} for i, item in enumerate(ITEMS)]
    rules = {"rules": {"default": [{"type": "boost", "formula": "score + margin + 0 * clicks"}]}}

    def moved() -> float:
        for user in range(4):
            rank(declared, user_id=str(user), candidates=margins)
        answer = fresh_http.post(f"{declared.url}/rules/preview", json=rules, headers=TOKEN)
        assert answer.status_code == 200, answer.text
        return answer.json()["versions"][0]["moved_share"] or 0.0

    kit.wait_until(lambda: moved() > 0)
