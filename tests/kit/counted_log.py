"""A day's log for tests of counters: events with late, doubled and early ones, and the schema that counts them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

DAY_MS = 86_400_000
MINUTE_MS = 60_000
START_MS = 1_700_006_400_000  # midnight
USERS = 12
ITEMS = 15

COUNTERS: list[dict[str, Any]] = [
    {
        "name": "item_rate",
        "statistic": "rate",
        "by": "item",
        "actions": ["click", "like"],
        "window_s": 7200,
        "bucket_s": 600,
        "prior": {"a": 1.0, "b": 20.0},
    },
    {
        "name": "item_faded_rate",
        "statistic": "rate",
        "by": "item",
        "actions": ["click"],
        "per": ["impression", "preview"],
        "window_s": 86_400,
        "bucket_s": 3600,
        "half_life_s": 5000.0,
        "prior": {"a": 0.5, "b": 3.0},
    },
    {"name": "item_users", "statistic": "distinct", "by": "item", "of": "user", "most": 4, "actions": ["click"]}
    | {"window_s": 14_400, "bucket_s": 1800},
    {"name": "user_clicks", "statistic": "count", "by": "user", "actions": ["click"], "transform": "log1p"}
    | {"window_s": 1800, "bucket_s": 60},
    {"name": "user_shops", "statistic": "distinct", "by": "user", "of": "shop", "actions": ["click", "like"]}
    | {"window_s": 36_000, "bucket_s": 3600},
    {"name": "user_since_like", "statistic": "time_since", "by": "user", "actions": ["like"], "window_s": 20_000},
    {"name": "user_shop_rate", "statistic": "rate", "by": "user", "item_feature": "shop", "values": 3}
    | {"actions": ["click"], "window_s": 43_200, "bucket_s": 3600, "prior": {"a": 1.0, "b": 4.0}},
    {"name": "user_shop_since", "statistic": "time_since", "by": "user", "item_feature": "shop", "values": 3}
    | {"actions": ["click"], "window_s": 43_200},
    {"name": "scene_rate", "statistic": "rate", "by": "scene", "actions": ["click"], "window_s": 3600, "bucket_s": 300}
    | {"prior": {"a": 0.0, "b": 0.0}},
]
SCHEMA: dict[str, Any] = {
    "user": [{"name": "age", "type": "numeric"}],
    "item": [
        {"name": "item_id", "type": "categorical"},
        {"name": "shop", "type": "categorical"},
        {"name": "price", "type": "numeric"},
    ],
    "item_id_feature": "item_id",
    "counters": COUNTERS,
}


@dataclass(frozen=True)
class CountedLog:
    """Rows of users, items, impressions and behaviours. `arrived_ms` is when the service received a row; a doubled row
    stands there twice.
    """

    users: pd.DataFrame
    items: pd.DataFrame
    impressions: pd.DataFrame
    behaviours: pd.DataFrame


def counted_log(seed: int = 1, impressions: int = 700, behaviours: int = 900) -> CountedLog:
    """One day. A tenth of the rows arrives hours late, some are ahead of their arrival, a twentieth comes twice."""
    rng = np.random.default_rng(seed)
    users = pd.DataFrame({"user_id": [f"u{i}" for i in range(USERS)], "age": np.arange(USERS) + 20.0})
    shops = np.array([f"shop{i % 6}" for i in range(ITEMS)], dtype=object)
    shops[3] = None
    items = pd.DataFrame({"item_id": [f"i{i}" for i in range(ITEMS)], "shop": shops, "price": np.arange(ITEMS) * 1.5})
    items["shop"] = items["shop"].astype(object).where(items["shop"].notna(), None)
    shown = _rows(rng, impressions)
    shown["click"] = rng.integers(0, 2, len(shown))
    done = _rows(rng, behaviours)
    done["action"] = rng.choice(["click", "like", "preview", "other"], len(done))
    return CountedLog(users, items, _doubled(rng, shown), _doubled(rng, done))


def _rows(rng: np.random.Generator, n: int) -> pd.DataFrame:
    time = START_MS + rng.integers(0, DAY_MS, n)
    delay = rng.integers(1, 20_000, n)
    late = rng.random(n) < 0.1
    delay[late] = rng.integers(MINUTE_MS, DAY_MS // 2, late.sum())
    ahead = rng.random(n) < 0.05
    delay[ahead] = -rng.integers(1, 5 * MINUTE_MS, ahead.sum())
    scenes = rng.choice(np.array(["home", "page", None], dtype=object), n)
    columns = {"user_id": rng.choice([f"u{i}" for i in range(USERS)], n), "time_ms": time, "arrived_ms": time + delay}
    items = rng.choice([f"i{i}" for i in range(ITEMS + 1)], n)  # one item has no row
    return pd.DataFrame(columns | {"item_id": items, "scene": scenes})


def _doubled(rng: np.random.Generator, rows: pd.DataFrame) -> pd.DataFrame:
    again = rows[rng.random(len(rows)) < 0.05].copy()
    again["arrived_ms"] += rng.integers(0, 30 * MINUTE_MS, len(again))
    return pd.concat([rows, again], ignore_index=True)
