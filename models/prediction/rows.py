"""Scores every impression of a part of a run's data, with its ids, time, labels and the features of the
request from the tables.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from features import Feature, Numeric, RowLayout, Vector
from models.data.cache import Data
from models.data.encoding.impressions import times_of
from models.data.split import PARTS, Splitter, split_columns
from models.data.tables import data_folder, open_role
from models.recipe import Recipe
from models.training.evaluation import scores_of
from models.training.run import open_run, open_run_data
from tables import Batch, Table
from tables.packing import list_columns
from tables.vectors import vectors_of


@dataclass(frozen=True)
class ScoredRows:
    """Impressions in the part's order: ids as text, raw `context` and `own` values of the candidate by feature,
    `scores` float32 `[n]` by name.

    `compared`: the model compares the candidates of a request, so a score depends on the whole of it.
    """

    user_id: list[str]
    item_id: list[str]
    time_ms: np.ndarray
    request_id: list[str] | None
    context: list[dict[str, Any]]
    own: list[dict[str, Any]]
    labels: dict[str, np.ndarray]
    scores: dict[str, np.ndarray]
    compared: bool = False

    def __len__(self) -> int:
        return len(self.user_id)

    def table(self) -> pa.Table:
        """Ids, time, labels and scores as columns; a label's column is named `label/<label>`."""
        columns: dict[str, Any] = {"user_id": self.user_id, "item_id": self.item_id, "time_ms": self.time_ms}
        if self.request_id is not None:
            columns["request_id"] = self.request_id
        columns |= {f"label/{name}": values for name, values in self.labels.items()}
        return pa.table(columns | self.scores)


def score_run(folder: Path, part: str, cache: Path) -> ScoredRows:
    """Score a part with the run's best weights. Raises RunError, also if the data has changed since training."""
    run = open_run(folder)
    data = open_run_data(run, cache)
    kinds = {name: output.kind for output in run.ranker.outputs for name in output.score_names}
    scores = {}
    for name, score in scores_of(run.ranker, data, part).items():
        scores[name] = np.exp(score) if kinds[name].in_logs else score
    return _rows(data, part, scores)


def _rows(data: Data, part: str, scores: dict[str, np.ndarray]) -> ScoredRows:
    recipe = data.recipe
    names = recipe.data
    table = open_role(data_folder(names), "impressions", names.impressions)
    users: list[str] = []
    items: list[str] = []
    times = [np.zeros(0, np.int64)]
    requests: list[str] = []
    context: list[dict[str, Any]] = []
    own: list[dict[str, Any]] = []
    for batch in _of_part(table, recipe, part):
        users += batch.ids(names.user_id)
        items += batch.ids(names.item_id)
        times.append(times_of(batch, recipe))
        context += _values(batch, recipe.features.context)
        own += _values(batch, recipe.features.candidate)
        if names.request_id:
            requests += batch.texts(names.request_id)
    labels = {name: data.parts[part].labels[:, i] for i, name in enumerate(recipe.label_columns)}
    request_id = requests if names.request_id else None
    compared = data.parts[part].within is not None
    return ScoredRows(users, items, np.concatenate(times), request_id, context, own, labels, scores, compared)


def _of_part(table: Table, recipe: Recipe, part: str) -> Iterator[Batch]:
    """Yield the part's impressions, batch by batch."""
    data = recipe.data
    features = (*recipe.features.context, *recipe.features.candidate)
    columns = [data.user_id, data.item_id, data.time_ms, *split_columns(data), *(f.name for f in features)]
    if data.request_id:
        columns.append(data.request_id)
    splitter = Splitter(data)
    for batch in table.batches(columns, list_columns(RowLayout(features))):
        yield batch.selection(np.flatnonzero(splitter.part_of(batch) == PARTS.index(part)))


def _values(batch: Batch, features: Sequence[Feature]) -> list[dict[str, Any]]:
    """Return the raw values of features in the form of a request; null states that a value is missing."""
    rows: list[dict[str, Any]] = [{} for _ in range(len(batch))]
    for feature in features:
        for row, value in zip(rows, _raw_values(batch, feature), strict=True):
            # NaN is not equal to itself, and JSON does not have it.
            row[feature.name] = value if value == value else None
    return rows


def _raw_values(batch: Batch, feature: Feature) -> list[Any]:
    if isinstance(feature, Numeric):
        return list(batch.numbers(feature.name).tolist())
    if isinstance(feature, Vector):
        vectors = vectors_of(batch, feature, feature.name)
        return [None if np.isnan(vector[0]) else vector.tolist() for vector in vectors]
    return list(batch.raw(feature.name).tolist())
