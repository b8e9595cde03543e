"""Tests the schema: faults are refused by name, and the fingerprint distinguishes stored rows."""

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from features import FeatureError, FeatureSchema
from features.layouts import Layouts

PLAIN: dict[str, Any] = {
    "user": [{"name": "user_id", "type": "categorical"}],
    "item": [{"name": "item_id", "type": "categorical"}, {"name": "price", "type": "numeric"}],
    "context": [{"name": "tab", "type": "categorical"}],
    "behaviour": {"max_length": 50, "item_features": ["item_id"]},
    "user_id_feature": "user_id",
    "item_id_feature": "item_id",
}


def schema(change=lambda raw: None):
    raw = copy.deepcopy(PLAIN)
    change(raw)
    return FeatureSchema.model_validate(raw)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["context"].append({"name": "price", "type": "numeric"}), "'price' is defined twice"),
        (lambda r: r.update(item=[]), "at least one item feature"),
        (lambda r: r.update(user_id_feature="price"), "user_id_feature: 'price' is not a categorical feature"),
        (
            lambda r: r["behaviour"].update(item_features=["prize"]),
            "'prize' is not an item feature; did you mean 'price'?",
        ),
        (lambda r: r["item"][1].update(transfrom="log1p"), "transfrom"),
        (lambda r: r["item"][1].update(type="number"), "number"),
        (lambda r: r["item"][1].update(name="the price"), "name"),
    ],
)
def test_a_schema_that_cannot_work_is_refused_by_name(change, message):
    with pytest.raises(ValidationError, match=message):
        schema(change)


def test_a_label_or_position_used_as_a_feature_is_refused_by_name():
    with pytest.raises(FeatureError, match="price: this column is a label and cannot be an ordinary feature"):
        schema().refuse_columns({"price": "a label"})
    schema().refuse_columns({"is_click": "a label"})


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["item"].reverse(),
        lambda r: r["item"][0].update(vocabulary="things"),
        lambda r: r["item"].append({"name": "age", "type": "numeric"}),
        lambda r: r["behaviour"].update(item_features=["price", "item_id"]),
        lambda r: r["behaviour"].update(scene_vocabulary="tab"),
        lambda r: r.update(item_id_feature=None),
    ],
)
def test_what_changes_a_stored_row_changes_the_fingerprint(change):
    assert schema(change).fingerprint != schema().fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["item"][1].update(transform="log1p"),
        lambda r: r["behaviour"].update(max_length=20),
        lambda r: r["context"].clear(),
    ],
)
def test_what_only_the_graph_does_with_a_row_leaves_the_fingerprint(change):
    assert schema(change).fingerprint == schema().fingerprint


def test_the_fingerprint_survives_writing_and_reading():
    assert FeatureSchema.model_validate_json(schema().model_dump_json()).fingerprint == schema().fingerprint


@pytest.mark.parametrize(("lag_s", "lag_ms"), [(0.0, 0), (1.001, 1001), (0.29, 290), (60.0, 60_000)])
def test_a_lag_is_the_whole_milliseconds_that_training_counts(lag_s: float, lag_ms: int) -> None:
    # 1.001 * 1000 lies below 1001.
    assert Layouts.of(schema(lambda raw: raw["behaviour"].update(lag_s=lag_s))).lag_ms == lag_ms
