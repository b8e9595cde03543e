"""Tests that a run with derived features trains, is exported and ranks over HTTP as training scored."""

import numpy as np
import pytest
from served_run import predicted_against_a_service

from export.bundle import export_run
from features import key_of
from models import train as training
from models.data.cache import open_data

TIMED = [
    {"name": "age", "type": "time_since", "of": "published", "unit": "d", "transform": "log1p", "bins": 4},
    {"name": "local_hour", "type": "hour", "utc_offset_min": 480},
    {"name": "weekday", "type": "weekday"},
]
DERIVED = [
    {"name": "per_minute", "type": "ratio", "of": "price_now", "per": "length", "bins": 4},
    {"name": "price_beyond_fans", "type": "difference", "of": "price_now", "minus": "fans"},
    {"name": "n_tags", "type": "length", "of": "tags"},
    {"name": "length_step", "type": "bucket", "of": "length", "edges": [10, 30]},
    {"name": "city_tags", "type": "cross", "of": ["city", "tags"]},
    {"name": "tab_step", "type": "cross", "of": ["tab", "length_step"]},
    {"name": "code_link", "type": "cross", "of": ["code", "link"]},
]


def with_own_columns(tables):
    """Requests of several impressions, candidates with a price, items with a day of publication that some lack."""
    impressions = tables["impressions"]
    impressions["time_ms"] = impressions.time_ms // 14_400_000 * 14_400_000
    impressions["tab"] = impressions.user_id % 3
    impressions["price_now"] = (impressions.item_id * 1.5 + impressions.click).where(impressions.item_id % 5 > 0)
    items = tables["items"]
    # Texts of which a part is the category.
    impressions["link"] = [f"https://{'Shop' if i % 3 else 'news'}.example/{i}" for i in range(len(impressions))]
    items["code"] = [f"{'abc'[i % 3]}-{i}" for i in items.item_id]
    items["published"] = (19_100 + items.item_id / 8).where(items.item_id % 7 > 0)
    items.loc[3:5, "length"] = 0.0
    return tables


def changes(derived, **more):
    """The recipe's features with those derived ones, and without behaviours."""
    item = [
        {"name": "item_id", "type": "categorical"},
        {"name": "tags", "type": "multi_categorical", "max_values": 2},
        {"name": "length", "type": "numeric"},
        {"name": "published", "type": "numeric"},
        {"name": "code", "type": "categorical", "text": {"type": "prefix", "characters": 1}},
    ]
    link = {"name": "link", "type": "categorical", "text": {"type": "url", "part": "host"}}
    return {
        "features.item": item,
        "features.candidate": [{"name": "price_now", "type": "numeric"}, link],
        "features.derived": derived,
        "features.behaviour": None,
        "data.behaviours": None,
        "model.encoders": [],
    } | more


def test_a_service_scores_derived_features_as_training_did(tiny_recipe, tables, tmp_path, capsys):
    recipe = tiny_recipe(with_own_columns(tables), changes([*DERIVED, *TIMED]))
    training.train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    registry = tmp_path / "registry"
    manifest = export_run(tmp_path / "run", registry, version=None).manifest
    inputs = {spec.name for spec in manifest.inputs}
    assert "request_time" in inputs and not any("derived" in name or "behaviour" in name for name in inputs)
    assert manifest.parity.max_abs_difference < 1e-5
    predicted_against_a_service(tmp_path, capsys, score_chunk=2)


def test_what_is_derived_reaches_the_network_and_keeps_what_is_missing(tiny_recipe, tables, tmp_path):
    recipe = tiny_recipe(with_own_columns(tables), changes([*DERIVED, *TIMED]))
    data = open_data(recipe, tmp_path / "cache")
    part = data.parts["train"]
    names = [f.name for f in recipe.features.derived_features if f.type == "numeric"]
    numbers = dict(zip(names, np.asarray(part.derived_numerics).T, strict=True))
    item = np.asarray(part.item)
    lengths = np.asarray(data.item_numerics)[item, 0]
    prices = np.asarray(part.candidate_numerics)[:, 0]
    published = np.asarray(data.item_numerics)[item, 1]
    with np.errstate(all="ignore"):
        expected = np.where(lengths == 0, np.nan, prices / lengths)
    np.testing.assert_array_equal(numbers["per_minute"], expected)
    assert 0.1 < np.isnan(expected).mean() < 0.5
    age_s = np.asarray(part.time) / 1000 - published.astype(np.float64) * 86_400
    np.testing.assert_allclose(numbers["age"], age_s, rtol=1e-6)
    assert np.isnan(age_s).any() and not np.isnan(age_s).all()
    stats = data.encoding.numerics["derived"]
    np.testing.assert_allclose(stats.mean[0], np.nanmean(expected.astype(np.float64)), rtol=1e-5)
    assert np.isfinite(stats.edges[names.index("per_minute")]).any()
    # Parts of texts are the categories, and every frequent cross has an embedding row of its own.
    vocabulary = data.encoding.vocabulary.keys
    assert {key_of("code", value) for value in "abc"} <= set(vocabulary.tolist())
    assert {key_of("link", f"{name}.example") for name in ("shop", "news")} <= set(vocabulary.tolist())
    columns = np.asarray(part.derived_rows)
    assert len(np.unique(columns)) > 24 + 7


@pytest.mark.parametrize(("derived", "timed"), [(DERIVED, False), (TIMED, True)])
def test_only_a_feature_of_the_request_time_makes_it_an_input(tiny_recipe, tables, derived, timed):
    features = tiny_recipe(with_own_columns(tables), changes(derived)).features
    assert features.reads_request_time == timed


def test_rows_in_the_store_do_not_depend_on_what_is_derived(tiny_recipe, tables):
    plain = tiny_recipe(with_own_columns(tables), changes([])).features
    derived = tiny_recipe(with_own_columns(tables), changes([*DERIVED, *TIMED])).features
    assert derived.fingerprint == plain.fingerprint
    assert "derived" not in plain.model_dump(mode="json") and "derived" in derived.model_dump(mode="json")


def test_a_counter_can_be_read(tiny_recipe, tables, tmp_path):
    counter = {"name": "shown", "statistic": "count", "by": "item", "actions": ["impression"], "window_s": 86_400}
    counters = [counter | {"bucket_s": 3600}]
    derived = [{"name": "per_length", "type": "ratio", "of": "shown", "per": "length"}]
    recipe = tiny_recipe(with_own_columns(tables), {"features.counters": counters, "features.derived": derived})
    data = open_data(recipe, tmp_path / "cache")
    shown = np.asarray(data.parts["train"].counters)[:, 0]
    lengths = np.asarray(data.item_numerics)[np.asarray(data.parts["train"].item), 0]
    with np.errstate(all="ignore"):
        expected = np.where(lengths == 0, np.nan, shown / lengths)
    np.testing.assert_array_equal(np.asarray(data.parts["train"].derived_numerics)[:, 0], expected)
    assert np.nanstd(expected) > 0
