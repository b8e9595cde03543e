"""What the users ask for: ids from the tables a service was loaded with, drawn with the skew that real traffic has."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet

from loadtest.workload.counts import CandidateCounts


class WorkloadError(ValueError):
    """The data folder lacks a table or holds too few ids."""


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
        """`count` different ids. A long draw from a short table runs into the tail, so after a few rounds the rest is filled up evenly."""
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
            raise WorkloadError(f"{max(counts.counts)} candidates are asked for, but there are {len(items.ids)} items")
        self.users = users
        self.items = items
        self.counts = counts
        self.unknown_share = unknown_share
        self.fixed = fixed
        self.rng = rng

    def next_request(self) -> dict[str, Any]:
        """One body for POST /rank: a user, distinct candidates and what every request has alike."""
        candidates = self.items.draw_distinct(self.rng, self.counts.draw(self.rng))
        for place in np.flatnonzero(self.rng.random(len(candidates)) < self.unknown_share):
            candidates[place] = f"unknown-{self.rng.integers(1 << 40)}-{place}"
        unknown = self.rng.random() < self.unknown_share
        user = f"unknown-{self.rng.integers(1 << 40)}" if unknown else self.users.draw(self.rng)
        return {"user_id": user, "candidates": candidates, **self.fixed}


def read_popularity(folder: Path, table: str, column: str, zipf: float, rng: np.random.Generator) -> Popularity:
    """The ids of `table` (users, items), the most frequent of the behaviours table first; in random order where there are no behaviours.

    Raises WorkloadError when the table or its id column is missing.
    """
    path = _find_table(folder, table)
    if path is None:
        raise WorkloadError(f"no {table}.parquet or {table}.csv in {folder}")
    ids = [str(value) for value in rng.permutation(_read_column(path, column))]
    behaviours = _find_table(folder, "behaviours")
    if behaviours is not None:
        found, counts = np.unique(_read_column(behaviours, column), return_counts=True)
        times = dict(zip((str(value) for value in found), counts.tolist(), strict=True))
        ids.sort(key=lambda name: -times.get(name, 0))
    return Popularity(list(dict.fromkeys(ids)), zipf)


def _find_table(folder: Path, table: str) -> Path | None:
    return next((path for name in (f"{table}.parquet", f"{table}.csv") if (path := folder / name).is_file()), None)


def _read_column(path: Path, column: str) -> np.ndarray[Any, Any]:
    try:
        if path.suffix == ".parquet":
            table = pyarrow.parquet.read_table(path, columns=[column])
        else:
            table = pyarrow.csv.read_csv(path, convert_options=pyarrow.csv.ConvertOptions(include_columns=[column]))
        return np.asarray(table[column].to_numpy())
    except (KeyError, pyarrow.ArrowInvalid) as error:
        raise WorkloadError(f"{path} has no column {column}: {error}") from error
