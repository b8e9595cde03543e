"""Owns what is fitted on the training part before a model trains: the vocabulary and the numerics' mean and deviation."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features import FeatureSchema, Numeric
from models.vocabulary import Vocabulary

GROUPS = ("user", "context", "item", "behaviour")
AGE = "age"  # the behaviour's age, the one numeric that is derived (from request_time and behaviour_times)


@dataclass(frozen=True)
class NumericStats:
    """Of a group's numeric columns, after their transform: `mean` and `deviation`, float32 `[N]`, over present training values."""

    mean: np.ndarray
    deviation: np.ndarray


@dataclass(frozen=True)
class Encoding:
    """`numerics` by group; the behaviour group has one column more than the row's numerics, the age, which is last."""

    schema: FeatureSchema
    vocabulary: Vocabulary
    numerics: Mapping[str, NumericStats]

    def save(self, path: Path) -> None:
        arrays = {f"numerics/{g}/{part}": getattr(s, part) for g, s in self.numerics.items() for part in ("mean", "deviation")}
        described = {"schema": self.schema.model_dump(mode="json"), "unknown_rows": dict(self.vocabulary.unknown_rows)}
        np.savez_compressed(path, keys=self.vocabulary.keys, rows=self.vocabulary.rows, described=np.array(json.dumps(described)), **arrays)


def load_encoding(path: Path) -> Encoding:
    with np.load(path, allow_pickle=False) as stored:
        described = json.loads(str(stored["described"]))
        vocabulary = Vocabulary(stored["keys"], stored["rows"], described["unknown_rows"])
        numerics = {g: NumericStats(stored[f"numerics/{g}/mean"], stored[f"numerics/{g}/deviation"]) for g in GROUPS}
    return Encoding(FeatureSchema.model_validate(described["schema"]), vocabulary, numerics)


def transformed(values: np.ndarray, log1p: np.ndarray) -> np.ndarray:
    """Numerics `[n, N]` after signed log1p where `log1p` bool `[N]` asks for it."""
    values = values.astype(np.float64)
    return np.where(log1p, np.sign(values) * np.log1p(np.abs(values)), values)


def log1p_columns(schema: FeatureSchema, group: str) -> np.ndarray:
    """Which numeric columns of a group take signed log1p, bool `[N]`; a behaviour's age does."""
    features = schema.behaviour_item_features if group == "behaviour" else schema.group(group)
    flags = [f.transform == "log1p" for f in features if isinstance(f, Numeric)]
    return np.array([*flags, True] if group == "behaviour" else flags, dtype=bool)


def standardisation(count: np.ndarray, total: np.ndarray, squares: np.ndarray) -> NumericStats:
    """Mean and deviation from running sums per column; a constant or empty column gets deviation 1."""
    n = np.maximum(count, 1)
    mean = total / n
    deviation = np.sqrt(np.maximum(squares / n - mean**2, 0))
    return NumericStats(mean.astype(np.float32), np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32))
