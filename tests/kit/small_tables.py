"""Small canonical tables whose labels can be learned, and a recipe for them, for every test that trains."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

DAY_MS = 86_400_000
START_MS = 1_651_334_400_000  # 2022-05-01T00:00:00+08:00
USERS = 40
ITEMS = 30
IMPRESSIONS = 1500

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "description": "made in the test",
    "data": {
        "dir": "",
        "split": {
            "by": "time",
            "train": ["2022-05-01T00:00:00+08:00", "2022-05-05T00:00:00+08:00"],
            "validation": ["2022-05-05T00:00:00+08:00", "2022-05-06T00:00:00+08:00"],
            "test": ["2022-05-06T00:00:00+08:00", "2022-05-09T00:00:00+08:00"],
        },
    },
    "features": {
        "user_id_feature": "user_id",
        "item_id_feature": "item_id",
        "user": [
            {"name": "user_id", "type": "categorical"},
            {"name": "city", "type": "categorical"},
            {"name": "fans", "type": "numeric", "transform": "log1p"},
        ],
        "item": [
            {"name": "item_id", "type": "categorical"},
            {"name": "tags", "type": "multi_categorical", "max_values": 2},
            {"name": "length", "type": "numeric"},
        ],
        "context": [{"name": "tab", "type": "categorical"}, {"name": "battery", "type": "numeric"}],
        "behaviour": {"max_length": 5, "item_features": ["tags", "item_id", "length"], "scene_vocabulary": "tab"},
    },
    "tasks": [
        {"type": "esmm", "click": "click", "conversion": "like"},
        {"type": "independent", "name": "plong_view", "label": "long_view"},
    ],
    "model": {
        "architecture": "mmoe",
        "embedding": {"dim": 4, "min_count": 2},
        "encoders": [{"type": "din", "hidden": [8]}],
        "tower_hidden": [8],
    },
    "training": {
        "epochs": 2,
        "batch_size": 64,
        "learning_rate": 0.01,
        "evaluations_per_epoch": 2,
        "averaging": 0.9,
        "patience": 10,
    },
    "extra_evaluations": [{"score": "pctcvr", "label": "like"}],
}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with changes given as `a.b: value`; a change to None sets None."""
    out = copy.deepcopy(base)
    for path, value in changes.items():
        *sections, key = path.split(".")
        target = out
        for section in sections:
            target = target.setdefault(section, {})
        target[key] = value
    return out


def make_tables(seed: int = 3) -> dict[str, pd.DataFrame]:
    """Users, items, behaviours and impressions with a real taste: a user clicks items with his tag."""
    rng = np.random.default_rng(seed)
    users = pd.DataFrame(
        {"user_id": np.arange(USERS), "city": rng.choice(["a", "b", None], USERS), "fans": rng.integers(0, 1000, USERS)}
    )
    users["fans"] = users["fans"].astype(float).where(rng.random(USERS) > 0.2)
    tags = [[int(t) for t in rng.permutation(4)[: rng.integers(0, 4)]] for _ in range(ITEMS)]
    items = pd.DataFrame(
        {"item_id": np.arange(ITEMS), "tags": tags, "length": rng.random(ITEMS).astype(np.float32) * 60}
    )
    user = rng.integers(0, USERS, IMPRESSIONS)
    item = rng.integers(0, ITEMS, IMPRESSIONS)
    liked = np.array([(u % 4) in tags[i] for u, i in zip(user, item, strict=True)])
    click = (rng.random(IMPRESSIONS) < np.where(liked, 0.8, 0.2)).astype(int)
    impressions = pd.DataFrame(
        {
            "user_id": user,
            "item_id": item,
            "time_ms": START_MS - DAY_MS + rng.integers(0, 9 * DAY_MS, IMPRESSIONS),
            "tab": rng.integers(0, 3, IMPRESSIONS),
            "battery": rng.random(IMPRESSIONS),
            "click": click,
            "long_view": (rng.random(IMPRESSIONS) < np.where(liked, 0.6, 0.1)).astype(int),
            "like": ((rng.random(IMPRESSIONS) < 0.3) & (click > 0)).astype(int),
            "place": rng.integers(1, 20, IMPRESSIONS),
        }
    )
    behaviours = impressions[["user_id", "item_id", "time_ms"]].copy()
    behaviours["action"] = np.where(click > 0, "click", "exposure")
    behaviours["scene"] = impressions["tab"]
    return {"users": users, "items": items, "behaviours": behaviours, "impressions": impressions}


def write_tables(folder: Path, tables: dict[str, pd.DataFrame]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    return folder
