"""Random tables with everything that a log may hold: ties, gaps, repeats, unknown ids, rows out of order."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from small_tables import DAY_MS, START_MS

from models.data.cache import Data

USERS = 60
ITEMS = 50
# Changes of the recipe of small_tables, by name.
VARIANTS: Mapping[str, dict[str, Any]] = {
    "plain": {},
    "lag and requests": {"data.behaviour_lag_s": 7200, "data.request_id": "request"},
    "bins and buckets": {
        "model.embedding.numerics": {"encoding": "piecewise_linear", "bins": 5},
        "model.embedding.hash_buckets": {"item_id": 7, "city": 3},
    },
    "position": {"position": {"column": "place", "cross": "tab", "max_position": 8, "head": "pctr"}},
    "split by column": {
        "data.split": {"by": "column", "column": "day", "train": ["0", "1", "2"], "validation": ["3"], "test": ["5"]}
    },
    "no behaviours": {"features.behaviour": None, "model.encoders": []},
    "no id features": {
        "features.user_id_feature": None,
        "features.item_id_feature": None,
        "features.user": [{"name": "city", "type": "categorical"}, {"name": "fans", "type": "numeric"}],
        "features.item": [
            {"name": "length", "type": "numeric"},
            {"name": "tags", "type": "multi_categorical", "max_values": 2},
        ],
        "features.behaviour.item_features": ["tags", "length"],
    },
}


def random_tables(seed: int, impressions: int = 900, behaviours: int = 1300) -> dict[str, pd.DataFrame]:
    """Tables of a log: a fifth of the items have no row, a twentieth of the rows occur twice, times are whole hours."""
    rng = np.random.default_rng(seed)
    users = pd.DataFrame({"user_id": rng.integers(0, USERS, USERS), "city": rng.choice(["a", "b", "c", None], USERS)})
    users["fans"] = pd.Series(rng.integers(0, 1000, USERS).astype(float)).where(rng.random(USERS) > 0.2)
    items = pd.DataFrame({"item_id": rng.permutation(ITEMS)[: ITEMS * 4 // 5]})
    items["tags"] = [[int(t) for t in rng.permutation(6)[: rng.integers(0, 4)]] for _ in range(len(items))]
    items["length"] = (rng.random(len(items)) * 60).astype(np.float32)
    shown = _log(rng, impressions)
    shown["tab"] = pd.Series(rng.integers(0, 3, impressions)).astype("Int64").where(rng.random(impressions) > 0.1)
    shown["battery"] = rng.random(impressions)
    shown["click"] = rng.integers(0, 2, impressions)
    shown["long_view"] = rng.integers(0, 2, impressions)
    shown["like"] = shown["click"] * rng.integers(0, 2, impressions)
    shown["place"] = pd.Series(rng.integers(0, 20, impressions).astype(float)).where(rng.random(impressions) > 0.1)
    shown["request"] = shown["user_id"].astype(str) + "-" + shown["time_ms"].astype(str)
    shown["day"] = ((shown["time_ms"] - START_MS) // DAY_MS).astype(int)
    acted = _log(rng, behaviours)
    acted["action"] = rng.choice(["click", "like", None], behaviours)
    acted["scene"] = rng.integers(0, 3, behaviours)
    tables = {"users": users, "items": items, "impressions": shown, "behaviours": acted}
    return {
        name: pd.concat([table, table.sample(len(table) // 20, random_state=seed)]) for name, table in tables.items()
    }


def _log(rng: np.random.Generator, n: int) -> pd.DataFrame:
    hours = rng.integers(-24, 8 * 24, n)
    ids = {"user_id": rng.zipf(1.3, n) % USERS, "item_id": rng.zipf(1.2, n) % ITEMS}
    return pd.DataFrame(ids | {"time_ms": START_MS + hours * 3_600_000})


def digests_of(data: Data) -> dict[str, str]:
    """A hash of every encoded array but of fitted means and deviations, whose last bits are those of a processor."""
    folder = data.kept_rows.parent
    digests = {}
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".npz", ".json"):
            digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    for name in ("encoding", "kept_rows"):
        with np.load(folder / f"{name}.npz") as stored:
            for key in sorted(stored):
                if not key.endswith(("mean", "deviation")):
                    array = np.ascontiguousarray(stored[key])
                    digests[f"{name}/{key}"] = hashlib.sha256(array.tobytes()).hexdigest()[:16]
    return digests


def statistics_of(data: Data) -> dict[str, list[float]]:
    """The fitted means and deviations."""
    return {
        f"{group}/{part}": [float(value) for value in getattr(stats, part)]
        for group, stats in data.encoding.numerics.items()
        for part in ("mean", "deviation")
    }
