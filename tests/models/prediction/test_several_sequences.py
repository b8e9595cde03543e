"""Tests sequences of clicks, carts and purchases: the service selects behaviours as training did, as of each moment."""

import numpy as np
import pandas as pd
import pytest
from served_run import predicted_against_a_service
from small_tables import ITEMS, START_MS, USERS

from export.bundle import export_run
from models import train as training
from models.data.batches import gather
from models.data.cache import open_data
from models.training.run import open_run

DAY_MS = 86_400_000
CLICKS = 50
SEQUENCES = {
    "clicks": {"actions": ["click"], "length": 8, "encoders": [{"type": "din", "hidden": [4]}]},
    "carts": {"actions": ["cart"], "length": 5, "encoders": [{"type": "dupn", "hidden": 4, "user_hidden": 4}]},
    "intents": {
        "actions": ["cart", "buy"],
        "length": 4,
        "encoders": [{"type": "pooling"}, {"type": "matches", "features": ["tags", "item_id"]}],
    },
    "purchases": {
        "actions": ["buy"],
        "length": 3,
        "encoders": [{"type": "bst", "width": 4, "attention_heads": 2, "feed_forward": 4}],
    },
}


def shop(tables):
    """Behaviours of a shop. Every second user bought 2 items and clicked 50 since; every fifth has no behaviour.

    One `share` of each user is an action that training sees too seldom to know.
    """
    rng = np.random.default_rng(8)
    behaviours = tables["behaviours"].copy()
    behaviours["action"] = rng.choice(["click", "cart", "exposure"], len(behaviours), p=[0.5, 0.2, 0.3])
    more = [behaviours]
    for user in range(0, USERS, 2):
        since_ms = START_MS - 10 * DAY_MS + np.arange(CLICKS + 2) * 60_000
        actions = ["buy"] * 2 + ["click"] * CLICKS
        own = {"user_id": user, "item_id": rng.integers(0, ITEMS, CLICKS + 2), "action": actions, "scene": 1}
        more.append(pd.DataFrame(own | {"time_ms": since_ms}))
    newest_ms = tables["impressions"]["time_ms"].max()
    rare = {"user_id": [0, 1], "item_id": [1, 2], "action": "share", "scene": 1, "time_ms": newest_ms - DAY_MS}
    whole = pd.concat([*more, pd.DataFrame(rare)], ignore_index=True)
    return tables | {"behaviours": whole[whole["user_id"] % 5 != 4]}


@pytest.mark.slow
def test_a_service_scores_several_sequences_as_training_did(tiny_recipe, tables, tmp_path, capsys):
    changes = {
        "features.behaviour.max_length": 150,
        "model.encoders": [],
        "model.sequences": SEQUENCES,
        "data.behaviour_lag_s": 60,
        "training.epochs": 1,
    }
    recipe = tiny_recipe(shop(tables), changes)
    training.train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    manifest = export_run(tmp_path / "run", tmp_path / "registry", version=None).manifest
    encoders = "din(clicks), dupn(carts), pooling(intents), matches(intents), bst(purchases)"
    assert manifest.composition["encoders"] == encoders
    # The data has what the test is about: a purchase behind 50 clicks, a full sequence, and none at all.
    data = open_data(recipe, tmp_path / "cache")
    part = data.parts["test"]
    rows = gather(data, part, np.arange(len(part)))["behaviour_rows"].numpy()
    (bought,) = open_run(tmp_path / "run").ranker.encoders[-1].actions
    places = [np.flatnonzero(actions == bought) for actions in rows[..., -2]]
    assert sum(len(of_row) == 2 and of_row[0] >= CLICKS for of_row in places) > 20
    assert sum(not len(of_row) for of_row in places) > 20
    predicted_against_a_service(tmp_path, capsys, score_chunk=7)
