"""Reads the log that counters count: impressions and behaviours, each once, with the time at which it arrived."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial

import numpy as np

from features import MISSING_KEY, keys_of_column
from features.counters import IMPRESSION
from models.data.encoding.entities import Entities, id_keys
from models.data.split import Splitter, split_columns
from models.recipe import Recipe
from tables import Batch, Table

_SCENE = "scene"
_NO_ITEM = -1


@dataclass(frozen=True)
class LogRows:
    """Rows of a log, arrays `[n]`: keys of user, item and scene, the item's row (-1: none), the action's place in the
    list of counted ones (-1: another), the time and the arrival in milliseconds, the part of an impression.
    """

    user: np.ndarray
    item: np.ndarray
    row: np.ndarray
    scene: np.ndarray
    action: np.ndarray
    time: np.ndarray
    arrived: np.ndarray
    part: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def at(self, places: np.ndarray) -> "LogRows":
        return LogRows(**{f.name: getattr(self, f.name)[places] for f in fields(self)})


def joined(logs: Sequence[LogRows]) -> LogRows:
    """The rows of several logs."""
    return LogRows(**{f.name: np.concatenate([getattr(log, f.name) for log in logs]) for f in fields(LogRows)})


def once(log: LogRows, request: np.ndarray | None = None) -> LogRows:
    """The rows without repeats of user, item, action, scene and time (and request): the first to arrive stays."""
    keys = [log.user, log.item, log.scene, log.action.astype(np.int64), log.time]
    if request is not None:
        keys.append(request)
    order = np.lexsort((log.arrived, *keys))
    repeats = np.zeros(len(log), dtype=bool)
    repeats[1:] = np.all([key[order][1:] == key[order][:-1] for key in keys], axis=0)
    return log.at(np.sort(order[~repeats]))


def read_impressions(
    table: Table, recipe: Recipe, items: Entities, actions: Mapping[str, int]
) -> tuple[LogRows, LogRows]:
    """All impressions in the table's order, and each once. Raises TableError."""
    data = recipe.data
    optional = [data.scene, data.arrived_ms, data.request_id]
    columns = [data.user_id, data.item_id, data.time_ms, *(name for name in optional if name is not None)]
    if data.arrived_ms is not None:
        table.require({data.arrived_ms: "data.arrived_ms"})
    if data.scene is not None:
        table.require({data.scene: "data.scene"})
    splitter = Splitter(data)
    logs = []
    requests = []
    for batch in table.batches([*columns, *split_columns(data)]):
        scene = np.zeros(len(batch), dtype=np.int64)
        if data.scene is not None:
            scene = batch.keys(data.scene, partial(keys_of_column, _SCENE, field=data.scene))
        action = np.full(len(batch), actions.get(IMPRESSION, -1), dtype=np.int64)
        logs.append(_log(batch, recipe, items, scene, action, splitter.part_of(batch)))
        if data.request_id is not None:
            requests.append(batch.keys(data.request_id, partial(keys_of_column, data.request_id)))
    every = joined(logs)
    return every, once(every, np.concatenate(requests) if requests else None)


def read_behaviours(table: Table, recipe: Recipe, items: Entities, actions: Mapping[str, int]) -> LogRows:
    """The behaviours with counted actions, each once. Raises TableError."""
    data = recipe.data
    table.require({"action": "features.counters", _SCENE: "features.counters"})
    columns = [data.user_id, data.item_id, data.time_ms, "action", _SCENE]
    if data.arrived_ms is not None:
        table.require({data.arrived_ms: "data.arrived_ms"})
        columns.append(data.arrived_ms)
    logs = []
    for batch in table.batches(columns):
        action = np.array([actions.get(text, -1) for text in batch.texts("action")], dtype=np.int64)
        used = np.flatnonzero(action >= 0)
        selected = batch.selection(used)
        scene = selected.keys(_SCENE, partial(keys_of_column, _SCENE))
        logs.append(_log(selected, recipe, items, scene, action[used], np.full(len(used), -1)))
    return once(joined(logs)) if logs else _empty()


def _log(
    batch: Batch, recipe: Recipe, items: Entities, scene: np.ndarray, action: np.ndarray, part: np.ndarray
) -> LogRows:
    data = recipe.data
    time = batch.times(data.time_ms)
    lag_s = data.behaviour_lag_s if data.counter_lag_s is None else data.counter_lag_s
    arrived = time + round(lag_s * 1000)
    if data.arrived_ms is not None:
        arrived = batch.times(data.arrived_ms)
    row = items.known_index_of(batch, data.item_id)
    return LogRows(id_keys(batch, data.user_id), id_keys(batch, data.item_id), row, scene, action, time, arrived, part)


def _empty() -> LogRows:
    return LogRows(*(np.zeros(0, dtype=np.int64) for _ in fields(LogRows)))


def feature_keys(log: LogRows, items: np.ndarray, column: int) -> np.ndarray:
    """The keys of an item feature, int64 `[n]`; an item without a row has none."""
    if not len(items):
        return np.full(len(log), MISSING_KEY, dtype=np.int64)
    return np.where(log.row == _NO_ITEM, MISSING_KEY, items["keys"][np.maximum(log.row, 0), column])


def chunks(n: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` rows."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
