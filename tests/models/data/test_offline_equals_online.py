"""Tests for training/serving skew: raw rows give the same values through tables and batches as through the store."""

import numpy as np
import pandas as pd
import pytest
import redis

from features import BehaviourLayout, RowLayout
from models.data.batches import gather
from models.data.cache import open_data
from models.data.encoding.vocabulary import behaviour_column_vocabularies, key_column_vocabularies
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.keys import behaviours_key
from service.store.redis.loading import load


def online_rows(data, group, values):
    """Embedding rows and numerics of one entity's raw values, packed as the service packs them."""
    schema = data.recipe.features
    vocabulary = data.encoding.vocabulary
    layout = RowLayout(schema.group(group))
    row = layout.rows(layout.pack(values))[0]
    unknown = np.array([vocabulary.unknown_rows[n] for n in key_column_vocabularies(schema.group(group))], np.int32)
    return vocabulary.rows_of(row["keys"], unknown), row["numerics"]


def raw(table, row_id):
    """The raw values of one table row as JSON has them: plain Python values, null for missing."""
    values = {}
    for name in row_id:
        value = table[name]
        value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        values[name] = None if not isinstance(value, list) and pd.isna(value) else value
    return values


def test_a_batch_holds_what_the_service_would_feed_the_graph(tiny_recipe, tables, tmp_path):
    data = open_data(tiny_recipe(tables), tmp_path / "cache")
    schema = data.recipe.features
    vocabulary = data.encoding.vocabulary
    part = data.parts["validation"]
    users = tables["users"].set_index("user_id", drop=False)
    items = tables["items"].set_index("item_id", drop=False)
    impressions = tables["impressions"].set_index("time_ms", drop=False)
    behaviours = tables["behaviours"].drop_duplicates().sort_values("time_ms", ascending=False)
    item_layout = RowLayout(schema.item)
    layout = BehaviourLayout(schema)
    unknown = np.array([vocabulary.unknown_rows[n] for n in behaviour_column_vocabularies(schema)], np.int32)

    batch = {name: values.numpy() for name, values in gather(data, part, np.arange(len(part))).items()}
    for row, time in enumerate(np.asarray(part.time)):
        impression = impressions.loc[time]
        entities = {"user": users.loc[impression.user_id], "item": items.loc[impression.item_id], "context": impression}
        for group, table in entities.items():
            rows, numerics = online_rows(data, group, raw(table, [f.name for f in schema.group(group)]))
            np.testing.assert_array_equal(batch[f"{group}_rows"][row], rows)
            assert batch[f"{group}_numerics"][row].tobytes() == numerics.tobytes()
        seen = behaviours[(behaviours.user_id == impression.user_id) & (behaviours.time_ms < time)].head(5)
        events = [
            layout.pack_event(
                item_layout.pack(raw(items.loc[e.item_id], [f.name for f in schema.item])),
                e.action,
                int(e.scene),
                int(e.time_ms),
            )
            for e in seen.itertuples()
        ]
        packed = layout.rows(b"".join(events)) if events else layout.empty(0)
        n = len(packed)
        np.testing.assert_array_equal(batch["behaviour_rows"][row, :n], vocabulary.rows_of(packed["keys"], unknown))
        assert batch["behaviour_numerics"][row, :n].tobytes() == packed["numerics"].tobytes()
        np.testing.assert_array_equal(batch["behaviour_times"][row, :n], packed["time"])
        assert not batch["behaviour_rows"][row, n:].any()


def test_rows_kept_for_the_exporter_are_raw_keys_of_the_same_impressions(tiny_recipe, tables, tmp_path):
    data = open_data(tiny_recipe(tables), tmp_path / "cache")
    with np.load(data.kept_rows) as arrays:
        times = arrays["request_time"]
        item_layout = RowLayout(data.recipe.features.item)
        of_time = tables["impressions"].set_index("time_ms").item_id
        for row, time in enumerate(times[:50]):
            packed = item_layout.rows(
                item_layout.pack(raw(tables["items"].loc[of_time[time]], [f.name for f in data.recipe.features.item]))
            )[0]
            np.testing.assert_array_equal(arrays["item_keys"][row], packed["keys"])
        assert arrays["behaviour_keys"].shape[1] == BehaviourLayout(data.recipe.features).key_width
        assert set(times) <= set(np.asarray(data.parts["validation"].time))


def test_behaviours_of_one_millisecond_lie_in_the_same_order_in_training_and_in_the_store(
    tiny_recipe, tables, tmp_path
):
    """Both keep the table's order among equal times, even if the store gets it in pieces, and count duplicates once."""
    behaviours = tables["behaviours"].sample(frac=1, random_state=2, ignore_index=True)
    behaviours["time_ms"] -= behaviours["time_ms"] % (3 * 86_400_000)
    tables["behaviours"] = pd.concat([behaviours, behaviours.sample(200, random_state=3)], ignore_index=True)
    recipe = tiny_recipe(tables, {"features.behaviour.max_length": 1000})
    data = open_data(recipe, tmp_path / "cache")
    vocabulary = data.encoding.vocabulary
    part = data.parts["validation"]
    layout = BehaviourLayout(recipe.features)
    unknown = np.array([vocabulary.unknown_rows[n] for n in behaviour_column_vocabularies(recipe.features)], np.int32)
    batch = {name: values.numpy() for name, values in gather(data, part, np.arange(len(part))).items()}
    of_time = tables["impressions"].set_index("time_ms").user_id
    tied = 0
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as store, pytest.MonkeyPatch.context() as patched:
        patched.setattr(load, "BATCH_ROWS", 97)
        load.load_folder(tmp_path / "data", recipe.features, server.url)
        for row, time in enumerate(np.asarray(part.time)):
            members = store.zrevrangebyscore(
                behaviours_key(recipe.features.fingerprint, str(of_time[time])), f"({time}", "-inf"
            )
            packed = layout.rows(b"".join(member[8:] for member in members))
            tied += int((np.diff(packed["time"]) == 0).sum())
            np.testing.assert_array_equal(
                batch["behaviour_rows"][row, : len(packed)], vocabulary.rows_of(packed["keys"], unknown)
            )
            np.testing.assert_array_equal(batch["behaviour_times"][row, : len(packed)], packed["time"])
            assert not batch["behaviour_times"][row, len(packed) :].any()
    assert tied > 1000
