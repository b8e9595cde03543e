"""Opens a log with its labels, for what is measured or fitted on them."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import duckdb

from loop.errors import LogError
from loop.join.join import model_of, section_of
from loop.join.labels import label, open_database, read_log, refused_by_database
from loop.join.report import check_rate, measure
from loop.log.live import live_files
from loop.quality.rows import MeasuredTask, SeenRows, measured_tasks, seen_rows
from models.recipe import Recipe
from models.recipe.sections.log import LogSection
from tables.log_records import RecordKind


@dataclass(frozen=True)
class LabelledLog:
    """A database with the labels of one model's impressions, and the files of its exposures."""

    database: duckdb.DuckDBPyConnection
    section: LogSection
    model: str
    tasks: tuple[MeasuredTask, ...]
    exposures: Sequence[Path]
    join_rate: float | None

    def seen(self, days: float) -> SeenRows:
        """The impressions of the last days. Raises LogError if there are none."""
        return seen_rows(self.database, self.section, self.tasks, days)


@contextmanager
def labelled_log(log: Path, recipe: Recipe, model: str | None, memory_mb: int = 1024) -> Iterator[LabelledLog]:
    """Label the impressions of a log, the records of its spool included, by the recipe's section `log`.

    Raises LogError.
    """
    section = section_of(recipe)
    tasks = measured_tasks(recipe)
    if not tasks:
        raise LogError("no task of the recipe is the probability of a label of 0 or 1, so there is nothing to measure")
    with tempfile.TemporaryDirectory(prefix="funnelrank-quality-") as scratch:
        files = live_files(log, Path(scratch))
        exposures = files[RecordKind.EXPOSURES]
        if not exposures:
            raise LogError(
                f"{log} has no exposure, neither in its hours nor in its spool; if services send the log elsewhere, "
                "run `funnelrank compact` first"
            )
        with (
            refused_by_database(Path(scratch), chain.from_iterable(files.values())),
            open_database(Path(scratch), memory_mb) as database,
        ):
            read_log(database, files)
            name = model_of(database, model)
            label(database, section, name)
            joined = measure(database, section)
            check_rate(joined, section.min_join_rate)
            yield LabelledLog(database, section, name, tasks, exposures, joined.join_rate)
