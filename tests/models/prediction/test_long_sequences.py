"""Tests sequences of a thousand behaviours: Redis keeps them, and the service scores them as training did."""

import numpy as np
import pandas as pd
import pytest
from served_run import predicted_against_a_service
from small_tables import ITEMS, START_MS

from export.bundle import export_run
from models import train as training
from models.data.batches import gather
from models.data.cache import open_data

LONGEST = 1000
DAYS_MS = 60 * 86_400_000


def with_long_sequences(tables):
    """Every tenth user has 1,300 behaviours more, all before the first impression."""
    rng = np.random.default_rng(4)
    behaviours = [tables["behaviours"]]
    for user in range(0, 40, 10):
        more = {"user_id": user, "item_id": rng.integers(0, ITEMS, 1300), "action": "click", "scene": 1}
        behaviours.append(pd.DataFrame(more | {"time_ms": START_MS - DAYS_MS + rng.integers(0, DAYS_MS // 2, 1300)}))
    return tables | {"behaviours": pd.concat(behaviours, ignore_index=True)}


@pytest.mark.slow
def test_a_service_scores_a_thousand_behaviours_as_training_did(tiny_recipe, tables, tmp_path, capsys):
    sim = {"type": "sim", "category": "tags", "top": 40, "recent": 5, "width": 4, "hidden": [4]}
    changes = {
        "features.behaviour.max_length": LONGEST,
        "model.architecture": "sim",
        "model.encoders": [sim],
        "training.epochs": 1,
    }
    recipe = tiny_recipe(with_long_sequences(tables), changes)
    training.train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    manifest = export_run(tmp_path / "run", tmp_path / "registry", version=None).manifest
    assert manifest.parity.behaviours[-1] == LONGEST
    # The data has what the test is about: full sequences, of which each candidate reads a part.
    data = open_data(recipe, tmp_path / "cache")
    part = data.parts["test"]
    rows = gather(data, part, np.arange(len(part)))["behaviour_rows"]
    assert rows.shape[1] == LONGEST and ((rows.amax(-1) > 0).sum(1) == LONGEST).sum() > 20
    predicted_against_a_service(tmp_path, capsys, score_chunk=7)
