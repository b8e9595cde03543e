"""Reads the seen impressions of a log with their served task scores and the states of their labels.

A label counts once its window is closed, whatever it is: positives arrive before negatives are certain, so a rate over
all known labels of young impressions would be too high.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import duckdb
import numpy as np

from loop.errors import LogError
from loop.join.labels import quoted
from models.kinds import PROBABILITY
from models.network.build import build_structures
from models.recipe import Recipe
from models.recipe.sections.log import LogSection

OPEN: Final = -1  # the label's window is not closed
UNKNOWN: Final = -2  # its event lies before the exposure, by a clock that is wrong
OUTSIDE: Final = -3  # the impression is not in the task's space
DAY_MS: Final = 86_400_000


@dataclass(frozen=True)
class MeasuredTask:
    """A probability of the recipe: the label columns whose AND it estimates, among impressions with all of `space`."""

    name: str
    label: tuple[str, ...]
    space: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.space, *self.label)))


@dataclass(frozen=True)
class SeenRows:
    """Columns `[n]` of the seen impressions, oldest first.

    `version`, `scene`, `arm`, `user` are texts; `states` has 0, 1, OPEN or UNKNOWN by label; `scores` float64 by task,
    NaN where the version has no such task.
    """

    version: np.ndarray
    scene: np.ndarray
    arm: np.ndarray
    user: np.ndarray
    time_ms: np.ndarray
    position: np.ndarray
    states: Mapping[str, np.ndarray]
    scores: Mapping[str, np.ndarray]
    watermark_ms: int

    def __len__(self) -> int:
        return len(self.time_ms)

    @property
    def day(self) -> np.ndarray:
        """The day of each impression since 1970 (UTC), int64 `[n]`."""
        return np.asarray(self.time_ms // DAY_MS)

    def outcome(self, task: MeasuredTask) -> np.ndarray:
        """0 or 1 where the task's label is matured, else OPEN, UNKNOWN or OUTSIDE, int8 `[n]`."""
        space = [self.states[name] for name in task.space]
        columns = [self.states[name] for name in task.columns]
        positive = np.all([self.states[name] == 1 for name in task.label], axis=0)
        result = np.where(positive, 1, 0).astype(np.int8)
        result[np.any([column == UNKNOWN for column in columns], axis=0)] = UNKNOWN
        result[np.any([column == OPEN for column in columns], axis=0)] = OPEN
        if space:
            result[np.any([column == 0 for column in space], axis=0)] = OUTSIDE
        return np.asarray(result)


def measured_tasks(recipe: Recipe) -> tuple[MeasuredTask, ...]:
    """The recipe's outputs that are probabilities of a label of 0 or 1."""
    outputs = [output for structure in build_structures(recipe) for output in structure.outputs]
    return tuple(MeasuredTask(o.name, o.label, o.space) for o in outputs if o.kind == PROBABILITY)


def day_name(day: int) -> str:
    """Name a day since 1970 (UTC), such as `2026-11-27`."""
    return datetime.fromtimestamp(day * DAY_MS / 1000, UTC).date().isoformat()


def seen_rows(
    database: duckdb.DuckDBPyConnection, log: LogSection, tasks: Sequence[MeasuredTask], days: float
) -> SeenRows:
    """Read the impressions of the last `days` before the newest record, after `label` has made its tables.

    Memory: about 100 bytes per impression and 8 per task. Raises LogError if nothing was seen.
    """
    (newest,) = database.execute("SELECT max(logged_ms) FROM logged").fetchall()[0]
    names = list(dict.fromkeys(name for task in tasks for name in task.columns))
    parameters: dict[str, Any] = {"newest": newest, "since": newest - round(days * DAY_MS)}
    columns = []
    for place, name in enumerate(names):
        wait_ms = round((log.labels[name].window_s + log.lateness_s) * 1000)
        matured = f"s.time_ms + {wait_ms} <= $newest"
        columns.append(f"CASE WHEN {matured} THEN coalesce(s.{quoted(name)}, {UNKNOWN}) ELSE {OPEN} END AS l{place}")
    for place, task in enumerate(tasks):
        parameters[f"t{place}"] = task.name
        # An exposure holds its scores task by task, each with one value per item; a list's places begin with 1.
        start = f"(list_position(x.tasks, $t{place}) - 1) * len(x.item_ids)"
        value = f"x.predictions[{start} + s.position - s.ranked_before]"
        columns.append(f"CASE WHEN list_contains(x.tasks, $t{place}) THEN {value} END::DOUBLE AS p{place}")
    read = database.execute(
        f"""
        SELECT x.version, coalesce(x.scene, '') AS scene,
               coalesce(x.experiment || '/' || x.arm, x.rules_experiment || '/' || x.rules_arm, '') AS arm,
               e.user_id, s.time_ms, s.position, {", ".join(columns)}
        FROM states s JOIN exposed e USING (request_id, ranked_before)
        JOIN raw_exposures x ON x.filename = e.filename AND x.file_row_number = e.file_row_number
        WHERE s.time_ms >= $since
        ORDER BY s.time_ms, s.request_id, s.position
        """,  # nosec B608 # names are quoted, numbers are our own
        parameters,
    ).fetchnumpy()
    if not len(read["time_ms"]):
        raise LogError(f"no impression was seen in the last {days:g} days of the log, by the recipe's rule log.seen")
    texts = {name: np.asarray(read[name]).astype(str) for name in ("version", "scene", "arm", "user_id")}
    return SeenRows(
        version=texts["version"],
        scene=texts["scene"],
        arm=texts["arm"],
        user=texts["user_id"],
        time_ms=np.asarray(read["time_ms"]),
        position=np.asarray(read["position"]),
        states={name: np.asarray(read[f"l{place}"]).astype(np.int8) for place, name in enumerate(names)},
        scores={task.name: np.ma.filled(read[f"p{place}"], np.nan) for place, task in enumerate(tasks)},
        watermark_ms=int(newest),
    )
