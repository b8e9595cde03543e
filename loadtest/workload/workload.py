"""Draws ranking requests: ids from the tables that a service was loaded with, with the skew of real traffic."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.workload.counts import CandidateCounts
from tables import Table, TableError, find_table


class WorkloadError(ValueError):
    """The data folder lacks a table or has too few ids."""


class Popularity:
    """Ids in order of popularity, drawn in proportion to 1 / rank^zipf."""

    def __init__(self, ids: list[str], zipf: float) -> None:
        if not ids:
            raise WorkloadError("a table has no ids")
        self.ids = ids
        weights = np.arange(1, len(ids) + 1, dtype=np.float64) ** -zipf
        self.cumulative = np.cumsum(weights / weights.sum())

    def draw(self, rng: np.random.Generator) -> str:
        return self.ids[self._rows(rng, 1)[0]]

    def draw_distinct(self, rng: np.random.Generator, count: int) -> list[str]:
        """Draw `count` different ids.

        A long draw from a short table needs the rare ids, so after a few rounds the rest is filled up evenly.
        """
        chosen: dict[int, None] = {}
        for _ in range(4):
            chosen.update(dict.fromkeys(self._rows(rng, 2 * count)))
            if len(chosen) >= count:
                break
        else:
            chosen.update(dict.fromkeys(int(row) for row in rng.permutation(len(self.ids))))
        return [self.ids[row] for row in list(chosen)[:count]]

    def _rows(self, rng: np.random.Generator, count: int) -> list[int]:
        rows = np.searchsorted(self.cumulative, rng.random(count), side="right")
        inside: list[int] = np.minimum(rows, len(self.ids) - 1).tolist()
        return inside


class Workload:
    """Draws the body of one ranking request after another."""

    def __init__(
        self,
        users: Popularity,
        items: Popularity,
        counts: CandidateCounts,
        unknown_share: float,
        fixed: dict[str, Any],
        rng: np.random.Generator,
    ) -> None:
        if max(counts.counts) > len(items.ids):
            raise WorkloadError(f"{max(counts.counts)} candidates are requested, but there are {len(items.ids)} items")
        self.users = users
        self.items = items
        self.counts = counts
        self.unknown_share = unknown_share
        self.fixed = fixed
        self.rng = rng

    def next_request(self) -> dict[str, Any]:
        """Draw one body for POST /rank: a user, distinct candidates and the constant fields."""
        candidates = self.items.draw_distinct(self.rng, self.counts.draw(self.rng))
        for place in np.flatnonzero(self.rng.random(len(candidates)) < self.unknown_share):
            candidates[place] = f"unknown-{self.rng.integers(1 << 40)}-{place}"
        unknown = self.rng.random() < self.unknown_share
        user = f"unknown-{self.rng.integers(1 << 40)}" if unknown else self.users.draw(self.rng)
        return {"user_id": user, "candidates": candidates, **self.fixed}


def read_popularity(folder: Path, table: str, column: str, zipf: float, rng: np.random.Generator) -> Popularity:
    """Read the ids of `table` (users, items), those most frequent in the behaviours first; in random order without
    them.

    Ids are the texts that the load writes, so that `007` and `7.0` are requested as they are in the store.

    Raises WorkloadError if the table or its id column is missing, or cannot be read.
    """
    try:
        source = find_table(folder, table)
        if source is None:
            raise WorkloadError(f"no {table}.parquet or {table}.csv in {folder}")
        ids = np.array(_ids(source, column), dtype=object)
        ordered: list[str] = rng.permutation(ids).tolist()
        behaviours = find_table(folder, "behaviours")
        if behaviours is not None:
            times = Counter(_ids(behaviours, column))
            ordered.sort(key=lambda name: -times[name])
    except TableError as error:
        raise WorkloadError(f"{error.file}: {error.detail}") from error
    return Popularity(list(dict.fromkeys(ordered)), zipf)


def _ids(table: Table, column: str) -> list[str]:
    table.require({column: "the load test"})
    return [name for batch in table.batches([column]) for name in batch.ids(column)]
