"""Writes the tables of a log of any size, by day: random, but the same for the same seed, and each day by itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.recipe import Recipe, parse_recipe

START_MS = 1_700_006_400_000  # 2023-11-15, midnight in UTC
DAY_MS = 86_400_000
ROW_GROUP = 1 << 17
ENTITIES_PER_FILE = 1 << 20
_ACTIONS = pa.array(["click", "like", "cart", "buy"])
_CITIES = 300
_TOPICS = 200

# The shape of the log: a user has 40 behaviours and sees 8 impressions.
BEHAVIOURS_PER_USER = 40
BEHAVIOURS_PER_ITEM = 100
BEHAVIOURS_PER_IMPRESSION = 5

_RECIPE: dict[str, Any] = {
    "name": "logs",
    "description": "Click and like over a log of many days, for the scale benchmark",
    "data": {
        "dir": "",
        "impressions": "impressions/",
        "users": "users/",
        "items": "items/",
        "behaviours": "behaviours/",
        "split": {"by": "column", "column": "day"},
    },
    "features": {
        "user_id_feature": "user_id",
        "item_id_feature": "item_id",
        "user": [
            {"name": "user_id", "type": "categorical"},
            {"name": "city", "type": "categorical"},
            {"name": "age", "type": "numeric"},
        ],
        "item": [
            {"name": "item_id", "type": "categorical"},
            {"name": "author_id", "type": "categorical"},
            {"name": "topic", "type": "categorical"},
            {"name": "length", "type": "numeric", "transform": "log1p"},
        ],
        "context": [{"name": "tab", "type": "categorical"}],
        "behaviour": {"max_length": 50, "item_features": ["item_id", "author_id"], "scene_vocabulary": "tab"},
    },
    "tasks": [{"type": "esmm", "click": "click", "conversion": "like"}],
    "model": {"architecture": "mmoe", "embedding": {"min_count": 2}},
}


@dataclass(frozen=True)
class LogShape:
    """The size of a log: `behaviours` over `days` days; the other tables follow from it."""

    behaviours: int
    days: int = 20

    @property
    def users(self) -> int:
        return max(1, self.behaviours // BEHAVIOURS_PER_USER)

    @property
    def items(self) -> int:
        return max(1, self.behaviours // BEHAVIOURS_PER_ITEM)

    @property
    def impressions(self) -> int:
        return self.behaviours // BEHAVIOURS_PER_IMPRESSION


def log_recipe(folder: Path, days: int, memory_gib: float) -> Recipe:
    """The recipe over a log of `days` days: the last is the test part, and the one before it the validation part."""
    names = [day_name(day) for day in range(days)]
    recipe = dict(_RECIPE)
    split = recipe["data"]["split"] | {"train": names[:-2], "validation": names[-2:-1], "test": names[-1:]}
    recipe["data"] = recipe["data"] | {"dir": str(folder), "split": split, "memory_gib": memory_gib}
    return parse_recipe(recipe, "the scale benchmark")


def day_name(day: int) -> str:
    """The name of a day in the folders of its tables."""
    return f"d{day:03}"


def write_log(shape: LogShape, folder: Path, seed: int) -> None:
    """Write users, items, and every day of impressions and behaviours."""
    write_entities(shape, folder, seed)
    for day in range(shape.days):
        write_day(shape, folder, seed, day)


def write_entities(shape: LogShape, folder: Path, seed: int) -> None:
    """Write users and items in files of a million rows. A fiftieth of them has no row, as happens in logs."""
    for name, count in (("users", shape.users), ("items", shape.items)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for part, first in enumerate(range(0, count, ENTITIES_PER_FILE)):
            rng = np.random.default_rng([seed, len(name), part])
            ids = np.arange(first, min(first + ENTITIES_PER_FILE, count))
            ids = ids[rng.random(len(ids)) > 0.02]
            columns = _users(rng, ids) if name == "users" else _items(rng, ids, count)
            pq.write_table(pa.table(columns), folder / name / f"part-{part:03}.parquet", row_group_size=ROW_GROUP)


def _users(rng: np.random.Generator, ids: np.ndarray) -> dict[str, np.ndarray]:
    n = len(ids)
    return {"user_id": ids, "city": rng.integers(0, _CITIES, n), "age": rng.integers(15, 80, n).astype(np.float32)}


def _items(rng: np.random.Generator, ids: np.ndarray, items: int) -> dict[str, np.ndarray]:
    n = len(ids)
    return {
        "item_id": ids,
        "author_id": _popular(rng, max(1, items // 10), n),
        "topic": rng.integers(0, _TOPICS, n),
        "length": rng.lognormal(3, 1, n).astype(np.float32),
    }


def write_day(shape: LogShape, folder: Path, seed: int, day: int) -> None:
    """Write one day of impressions and of behaviours, a file each."""
    rng = np.random.default_rng([seed, 0, day])
    n = shape.impressions // shape.days
    click = rng.random(n) < 0.3
    shown = _of_day(rng, shape, day, n) | {
        "tab": rng.integers(0, 4, n),
        "click": click.astype(np.int8),
        "like": (click & (rng.random(n) < 0.1)).astype(np.int8),
    }
    _write(folder / "impressions", day, shown)
    n = shape.behaviours // shape.days
    action = pa.DictionaryArray.from_arrays(pa.array(rng.choice(4, n, p=[0.7, 0.2, 0.07, 0.03])), _ACTIONS)
    acted = _of_day(rng, shape, day, n) | {"action": action, "scene": rng.integers(0, 4, n)}
    _write(folder / "behaviours", day, acted)


def _of_day(rng: np.random.Generator, shape: LogShape, day: int, n: int) -> dict[str, Any]:
    # In the order of time to the second, as a log is written, so that behaviours of one second have no other order.
    time_ms = START_MS + day * DAY_MS + np.sort(rng.integers(0, DAY_MS // 1000, n)) * 1000
    return {"user_id": _active(rng, shape.users, n), "item_id": _popular(rng, shape.items, n), "time_ms": time_ms}


def _active(rng: np.random.Generator, users: int, n: int) -> np.ndarray:
    """Users by activity: a tenth of them makes about half of the rows."""
    return np.floor(rng.random(n) ** 3 * users).astype(np.int64)


def _popular(rng: np.random.Generator, count: int, n: int) -> np.ndarray:
    """Draw by Zipf's law with exponent 1: the logarithm of the rank is even."""
    rank = np.floor(np.exp(rng.random(n) * np.log(count))).astype(np.int64)
    return np.asarray(np.minimum(rank, count - 1))


def _write(folder: Path, day: int, columns: dict[str, Any]) -> None:
    place = folder / f"day={day_name(day)}"
    place.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), place / "part-000.parquet", row_group_size=ROW_GROUP)
