"""Chooses the impressions that train, with their labels: those of closed windows or, for a task that corrects delayed
conversions, the newer ones as well, with the columns that the correction reads.
"""

from dataclasses import dataclass
from typing import Final

import duckdb
import pyarrow as pa

from loop.errors import LogError
from loop.join.labels import quoted
from models.recipe import Recipe
from models.recipe.sections.data import source_column
from models.recipe.sections.log import LoggedLabel, LogSection
from models.structures.delay import Delay, FakeNegativesOptions

PART: Final = "joined_part"  # column of the impressions: train, validation or test


@dataclass(frozen=True)
class DelayedConversion:
    """The conversion whose delay a task corrects: its label column, and the options of the correction."""

    column: str
    options: Delay


def delayed_conversion(recipe: Recipe) -> DelayedConversion | None:
    """The conversion of the one task with a `delay`; None without one. Raises LogError for several, and for other tasks
    beside one that repeats impressions.
    """
    # Any chain may have these two options.
    pairs = [(getattr(task, "conversion", ""), getattr(task, "delay", None)) for task in recipe.tasks]
    delayed = [DelayedConversion(column, delay) for column, delay in pairs if delay is not None]
    if len(delayed) > 1:
        raise LogError("several tasks have a 'delay'; a joined table can hold the columns of one")
    if delayed and isinstance(delayed[0].options, FakeNegativesOptions) and len(recipe.tasks) > 1:
        raise LogError(
            "'fake_negatives' repeats impressions, which the other tasks would count twice; join for it alone"
        )
    return delayed[0] if delayed else None


def label_names(recipe: Recipe) -> list[str]:
    """The columns of impressions that the recipe's labels are read from; `log1p(x)` is read from x."""
    return list(dict.fromkeys(map(source_column, recipe.label_columns)))


def value_names(recipe: Recipe) -> set[str]:
    """Those that may hold other numbers than 0 and 1."""
    return set(map(source_column, recipe.value_columns))


def event_labels(recipe: Recipe) -> list[str]:
    """The label columns that come from events: all but those of a correction."""
    delayed = delayed_conversion(recipe)
    columns = delayed.options.columns if delayed else {}
    return [name for name in label_names(recipe) if name not in columns]


def label_fields(recipe: Recipe) -> list[pa.Field]:
    """The columns that impressions get from the table `chosen`: labels and, if a task corrects delays, the part."""
    values = value_names(recipe)
    fields = [pa.field(name, pa.float64() if name in values else pa.int8()) for name in label_names(recipe)]
    return [*fields, pa.field(PART, pa.string())] if delayed_conversion(recipe) else fields


def choose(database: duckdb.DuckDBPyConnection, recipe: Recipe, section: LogSection) -> None:
    """Make the table `chosen`: a row per impression that trains, with a column per label and its part of the data."""
    delayed = delayed_conversion(recipe)
    names = [quoted(name) for name in event_labels(recipe)]
    if delayed is None:
        closed = " AND ".join(f"{name} IS NOT NULL" for name in names)
        database.execute(
            "CREATE TABLE chosen AS SELECT request_id, ranked_before, position, time_ms, "  # nosec B608
            f"{', '.join(names)}, NULL AS {PART} FROM states WHERE {closed}"
        )
        return
    label = section.labels[delayed.column]
    _observe(database, section, label, delayed.column, names)
    if isinstance(delayed.options, FakeNegativesOptions):
        _label_twice(database, label, delayed, names)
    else:
        _label_by_age(database, delayed, names)


def _observe(
    database: duckdb.DuckDBPyConnection, section: LogSection, label: LoggedLabel, conversion: str, names: list[str]
) -> None:
    """Make the table `observed`: impressions of any age whose other labels are closed, with age and delay.

    Every event up to the end is known: the newest record less `lateness_s`. A conversion counts from its first event
    within the window. `closed` says whether the window is over; the newest two tenths of these validate and test.
    """
    other_names = [name for name in names if name != quoted(conversion)]
    known = "".join(f" AND s.{name} IS NOT NULL" for name in other_names)
    parameters = {
        "actions": list(label.actions),
        "window": round(label.window_s * 1000),
        "tolerance": round(section.clock_tolerance_s * 1000),
        "lateness": round(section.lateness_s * 1000),
    }
    database.execute(
        f"""
        CREATE TABLE observed AS
        SELECT s.*, s.{quoted(conversion)} IS NOT NULL AS closed, c.delay_ms,
               (SELECT max(logged_ms) FROM logged) - $lateness - s.time_ms AS age_ms
        FROM states s LEFT JOIN (
            SELECT request_id, ranked_before, item_id,
                   min(greatest(after_ms, 0)) FILTER (after_ms BETWEEN -$tolerance AND $window) AS delay_ms,
                   min(after_ms) < -$tolerance AS misdated
            FROM joined WHERE list_contains($actions, action) GROUP BY ALL
        ) c USING (request_id, ranked_before, item_id)
        WHERE (c.delay_ms IS NOT NULL OR NOT coalesce(c.misdated, false)) AND age_ms > 0{known}
        """,  # nosec B608
        parameters,
    )
    borders = database.execute(
        "SELECT quantile_disc(time_ms, 0.8), quantile_disc(time_ms, 0.9) FROM observed WHERE closed"
    ).fetchall()[0]
    if borders[0] is None:
        raise LogError(
            f"no impression has a closed window of '{conversion}'; validation and test need some, as they take labels "
            "as they are"
        )
    database.execute(
        f"""
        CREATE VIEW parted AS SELECT *, CASE WHEN NOT closed OR time_ms < {int(borders[0])} THEN 'train'
            WHEN time_ms < {int(borders[1])} THEN 'validation' ELSE 'test' END AS {PART} FROM observed
        """  # nosec B608 # numbers and our own names
    )


def _label_by_age(database: duckdb.DuckDBPyConnection, delayed: DelayedConversion, names: list[str]) -> None:
    """One row per impression: the conversion if it lies before the end, its delay and the age in seconds."""
    conversion = quoted(delayed.column)
    age, delay = map(quoted, delayed.options.columns)
    others = "".join(f"{name}, " for name in names if name != conversion)
    database.execute(
        f"""
        CREATE TABLE chosen AS
        SELECT request_id, ranked_before, position, time_ms, {others}
               coalesce(delay_ms <= age_ms, false)::INT AS {conversion}, age_ms / 1000 AS {age},
               CASE WHEN delay_ms <= age_ms THEN delay_ms / 1000 ELSE 0 END AS {delay}, {PART}
        FROM parted
        """  # nosec B608
    )


def _label_twice(
    database: duckdb.DuckDBPyConnection, label: LoggedLabel, delayed: DelayedConversion, names: list[str]
) -> None:
    """A row per impression that trains as it was after `first_after_s`, and another one for a later conversion.

    Rows that validate and test have the label of their closed window.
    """
    if label.first_after_s is None:
        raise LogError(f"log.labels.{delayed.column} needs first_after_s, the age at which a row is labelled first")
    first_ms = round(label.first_after_s * 1000)
    conversion = quoted(delayed.column)
    (late,) = map(quoted, delayed.options.columns)
    other_columns = "".join(f"{name}, " for name in names if name != conversion)
    columns = f"request_id, ranked_before, position, time_ms, {other_columns}"
    database.execute(
        f"""
        CREATE TABLE chosen AS
        SELECT {columns} CASE WHEN {PART} = 'train' THEN coalesce(delay_ms <= {first_ms}, false)::INT
               ELSE {conversion} END AS {conversion}, 0 AS {late}, {PART}
        FROM parted WHERE {PART} <> 'train' OR age_ms >= {first_ms}
        UNION ALL
        SELECT {columns} 1, 1, {PART} FROM parted
        WHERE {PART} = 'train' AND delay_ms > {first_ms} AND delay_ms <= age_ms
        """  # nosec B608
    )
