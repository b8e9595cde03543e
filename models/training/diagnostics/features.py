"""Coverage of every feature by part, and its drift from the training part (population stability index)."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from features import Feature, Numeric, RowLayout, Vector
from features.statistics import BINS, psi_of_counts
from models.data.cache import Data
from models.data.encoding.vocabulary import MISSING_ROW
from models.data.split import PARTS
from models.training.diagnostics.sampling import drawn

MOST_IMPRESSIONS = 50_000
MOST_VALUES = 20  # of a categorical feature, the others count as one
DRIFTED = 0.25  # the usual border of a large shift


def feature_health(data: Data, seed: int) -> list[dict[str, Any]]:
    """For each feature `{"group", "feature", "coverage", "known", "psi"}`.

    `coverage`: the share of impressions with a value, by part; `known`: the share of the present ids that the
    vocabulary has, by part, None for numbers; `psi`: validation and test compared with train. A vector is measured by
    its norm, whose median in train is its `norm`, and a behaviour sequence by its length.
    """
    picked = {part: drawn(len(data.parts[part]), MOST_IMPRESSIONS, seed) for part in PARTS}
    return [*_of_groups(data, picked), *_of_behaviours(data, picked)]


def _of_groups(data: Data, picked: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    schema = data.encoding.schema
    for group in ("user", "item", "context", "candidate", "derived"):
        layout = RowLayout(schema.group(group))
        read = {part: group_rows(data, group, part, places) for part, places in picked.items()}
        for feature in layout.features:
            if isinstance(feature, Numeric | Vector):
                values = {part: layout.measured(feature, numerics) for part, (_, numerics) in read.items()}
                health = {"group": group, "feature": feature.name} | of_numbers(values)
                if isinstance(feature, Vector):
                    health["norm"] = _median(values["train"])
                yield health
            else:
                columns = layout.key_columns[feature.name]
                ids = {part: rows[:, columns] for part, (rows, _) in read.items()}
                yield {"group": group, "feature": feature.name} | of_ids(ids, _unknown_row(data, feature))


def group_rows(data: Data, group: str, part: str, picked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embedding rows and numerics of the picked impressions."""
    impressions = data.parts[part]
    if group == "context":
        return impressions.context_rows[picked], impressions.context_numerics[picked]
    if group == "candidate":
        return impressions.candidate_rows[picked], impressions.candidate_numerics[picked]
    if group == "derived":
        return impressions.derived_rows[picked], impressions.derived_numerics[picked]
    if group == "user":
        places = impressions.user[picked]
        return data.user_rows[places], data.user_numerics[places]
    places = impressions.item[picked]
    return data.item_rows[places], data.item_numerics[places]


def _unknown_row(data: Data, feature: Feature) -> int:
    assert not isinstance(feature, Numeric | Vector)
    return data.encoding.vocabulary.unknown_rows[feature.vocabulary_name]


def _of_behaviours(data: Data, picked: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    if data.behaviours is None:
        return
    lengths = {}
    for part, places in picked.items():
        impressions = data.parts[part]
        lengths[part] = (impressions.end[places] - impressions.start[places]).astype(float)
    health = of_numbers(lengths)
    health["coverage"] = {part: float((values > 0).mean()) for part, values in lengths.items()}
    yield {"group": "behaviours", "feature": "length"} | health


def of_numbers(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Coverage and drift of a number `[n]` by part; missing values are a separate bin beside the deciles of train."""
    present = {part: x[~np.isnan(x)] for part, x in values.items()}
    borders = (
        np.unique(np.quantile(present["train"], np.arange(1, BINS) / BINS)) if len(present["train"]) else np.zeros(0)
    )
    counts = {}
    for part, x in values.items():
        bins = np.bincount(np.searchsorted(borders, present[part], side="right"), minlength=len(borders) + 1)
        counts[part] = np.append(bins, len(x) - len(present[part]))
    coverage = {part: float(len(present[part]) / max(1, len(x))) for part, x in values.items()}
    return {"coverage": coverage, "known": None, "psi": _drift(counts)}


def _median(values: np.ndarray) -> float | None:
    present = values[~np.isnan(values)]
    return float(np.median(present)) if len(present) else None


def of_ids(ids: Mapping[str, np.ndarray], unknown: int) -> dict[str, Any]:
    """Coverage and drift of embedding rows `[n, values]` by part; bins: the most frequent ids of train, the others,
    none.
    """
    flat = {part: np.append(rows[rows != MISSING_ROW], rows[_absent(rows), :1]) for part, rows in ids.items()}
    values, counts = np.unique(flat["train"], return_counts=True)
    frequent = np.sort(values[np.argsort(-counts, kind="stable")[:MOST_VALUES]])
    binned = {part: _counts(rows, frequent) for part, rows in flat.items()}
    present = {part: rows[rows != MISSING_ROW] for part, rows in ids.items()}
    known = {part: float((rows != unknown).mean()) if len(rows) else None for part, rows in present.items()}
    coverage = {part: float(1 - _absent(rows).mean()) if len(rows) else 0.0 for part, rows in ids.items()}
    return {"coverage": coverage, "known": known, "psi": _drift(binned)}


def _absent(rows: np.ndarray) -> np.ndarray:
    return np.asarray((rows == MISSING_ROW).all(axis=1))


def _counts(rows: np.ndarray, frequent: np.ndarray) -> np.ndarray:
    """The number of rows with each frequent value, and with all other values together."""
    place = np.minimum(np.searchsorted(frequent, rows), max(len(frequent) - 1, 0))
    bins = np.where(frequent[place] == rows, place, len(frequent)) if len(frequent) else np.zeros(len(rows), np.int64)
    return np.bincount(bins, minlength=len(frequent) + 1)


def _drift(counts: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {part: psi_of_counts(counts["train"], counts[part]) for part in ("validation", "test")}
