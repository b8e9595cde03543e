"""Computes the counters of a schema as of each impression, as the service would have read them, and stores them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from features import MISSING_KEY, RowLayout
from features.counters import (
    DISTINCT,
    TIME,
    CellLayout,
    Series,
    Term,
    cell_layouts,
    number_of_totals,
    seconds_since,
    total_of,
)
from features.keys import sorted_distinct
from models.data.arrays import ArrayFile, read_array
from models.data.counting.as_of import BucketCounts, Moments, SeriesEvents, distinct_counts, last_times
from models.data.counting.log import LogRows, chunks, feature_keys, joined, read_behaviours, read_impressions
from models.data.encoding.entities import Entities
from models.data.split import PARTS, Splitter, split_columns
from models.data.stored.memory import refuse_beyond
from models.recipe import Recipe
from tables import Table

CHUNK = 1 << 16
_LOG_BYTES = 128  # of a row of the log in memory: itself, and what is sorted of it


def count_log(recipe: Recipe, tables: Mapping[str, Table], items: Entities, folder: Path) -> None:
    """Write `folder/<part>.counters` float32 `[n, K]`; nothing if the schema has no counters.

    Memory: 64 bytes per row of the log. Served tables have the numbers that the rankings used. Raises TableError, and
    RecipeError beyond the memory limit.
    """
    if not recipe.features.counters:
        return
    if recipe.data.served:
        _write_served(recipe, tables["impressions"], folder)
        return
    rows = sum(tables[role].rows or 0 for role in ("impressions", "events") if role in tables)
    work = f"counting {rows:,} rows of the log"
    refuse_beyond(recipe.data.memory_bytes, rows * _LOG_BYTES, work, ", or train without features.counters")
    # Read the log: what is counted, and the impressions that the numbers are for.
    counters = recipe.features.counters
    named = [action for counter in counters for action in (*counter.actions, *getattr(counter, "per", ()))]
    actions = {action: place for place, action in enumerate(dict.fromkeys(named))}
    impressions, events = read_impressions(tables["impressions"], recipe, items, actions)
    if "events" in tables:
        events = joined([events, read_behaviours(tables["events"], recipe, items, actions)])
    # The numbers of the used impressions, by part and in the table's order.
    for place, part in enumerate(PARTS):
        of_part = impressions.at(np.flatnonzero(impressions.part == place))
        numbers = numbers_as_of(recipe, events, of_part, items.packed(), actions)
        with ArrayFile(folder / f"{part}.counters", np.float32) as file:
            file.append(numbers)


def read_counters(recipe: Recipe, folder: Path, part: str, n: int) -> np.ndarray | None:
    """Read the result of `count_log`, `[n, K]`; None if the schema has no counters."""
    if not recipe.features.counters:
        return None
    return read_array(folder / f"{part}.counters", np.float32, len(recipe.features.counters), n)


def _write_served(recipe: Recipe, table: Table, folder: Path) -> None:
    names = [counter.name for counter in recipe.features.counters]
    table.require(dict.fromkeys(names, "features.counters"))
    splitter = Splitter(recipe.data)
    for part in PARTS:
        (folder / f"{part}.counters").touch()
    files = {part: ArrayFile(folder / f"{part}.counters", np.float32) for part in PARTS}
    try:
        for batch in table.batches([*names, *split_columns(recipe.data)]):
            part_of = splitter.part_of(batch)
            numbers = np.stack([batch.numbers(name) for name in names], axis=1)
            for place, part in enumerate(PARTS):
                files[part].append(numbers[part_of == place])
    finally:
        for file in files.values():
            file.close()


def numbers_as_of(
    recipe: Recipe, events: LogRows, moments: LogRows, items: np.ndarray, actions: Mapping[str, int]
) -> np.ndarray:
    """The counters' numbers for the rows `moments`, float32 `[m, K]`, from the events that arrived before each."""
    numbers = np.full((len(moments), len(recipe.features.counters)), np.nan, dtype=np.float32)
    row_layout = RowLayout(recipe.features.item)
    for layout in cell_layouts(recipe.features.counters):
        key, asked_key = _keys(layout, events, moments, items, row_layout)
        series = [_counted(each, events, key, items, row_layout, actions) for each in layout.series]
        for term in layout.terms:
            column = _numbers(layout, term, series, Moments(asked_key, moments.time))
            numbers[:, term.column] = np.where(asked_key == MISSING_KEY, np.nan, column)
    return numbers


def _keys(
    layout: CellLayout, events: LogRows, moments: LogRows, items: np.ndarray, rows: RowLayout
) -> tuple[np.ndarray, np.ndarray]:
    """The keys of a layout's cells, int64, for events and for what is asked; 0 where a row has none."""
    if layout.item_feature is None:
        return getattr(events, layout.by), getattr(moments, layout.by)
    column = rows.key_columns[layout.item_feature].start
    users = sorted_distinct(np.concatenate([events.user, moments.user]))

    def cells(log: LogRows) -> np.ndarray:
        value = feature_keys(log, items, column)
        cell = np.searchsorted(users, log.user) * layout.values + np.mod(value, layout.values) + 1
        return np.where(value == MISSING_KEY, MISSING_KEY, cell)

    return cells(events), cells(moments)


def _counted(
    series: Series, events: LogRows, key: np.ndarray, items: np.ndarray, rows: RowLayout, actions: Mapping[str, int]
) -> SeriesEvents:
    places = [actions[action] for action in series.actions]
    used = np.isin(events.action, places) & (key != MISSING_KEY)
    value = key
    if series.kind == DISTINCT:
        if series.of in ("user", "item"):
            value = getattr(events, series.of)
        else:
            value = feature_keys(events, items, rows.key_columns[str(series.of)].start)
        used &= value != MISSING_KEY
    return SeriesEvents(key[used], events.time[used], events.arrived[used], value[used])


def _numbers(layout: CellLayout, term: Term, counted: list[SeriesEvents], moments: Moments) -> np.ndarray:
    series = layout.series[term.series[0]]
    events = [counted[place] for place in term.series]
    if series.kind == TIME:
        return seconds_since(term, last_times(events[0], moments), moments.time)
    if series.kind == DISTINCT:
        return distinct_counts(events[0], moments, term, series.bucket_ms)
    counts = [BucketCounts(each, series) for each in events]
    numbers = np.empty(len(moments.key), dtype=np.float32)
    for chunk in chunks(len(numbers), CHUNK):
        part = Moments(moments.key[chunk], moments.time[chunk])
        numbers[chunk] = number_of_totals(term, [total_of(term, each.by_age(part, term.buckets)) for each in counts])
    return numbers
