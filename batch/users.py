"""Reads the users of a batch run and their candidates, one partition at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from batch.errors import BatchError
from features import FeatureError
from features.keys import text_of
from tables import Batch, Table, open_table

USER = "user_id"
ITEM = "item_id"
CANDIDATES = "candidates"


@dataclass(frozen=True)
class Partition:
    """Consecutive users of the table, as rows of Arrow: the process that scores them makes lists of these.

    One process reads for all the others, and lists would cost it four times as much.
    """

    number: int
    pieces: tuple[Batch, ...]

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    def users(self) -> list[str]:
        """The ids of the users. Raises TableError for a missing one."""
        users: list[str] = []
        for piece in self.pieces:
            users += piece.ids(USER)
        return users

    def candidates(self) -> list[list[str]]:
        """Each user's own list. Raises TableError for a column without lists, and for an id that is missing or no
        category.
        """
        lists: list[list[str]] = []
        for piece in self.pieces:
            lists += [_ids(piece, row or (), place) for place, row in enumerate(piece.lists(CANDIDATES))]
        return lists


@dataclass(frozen=True)
class UserTable:
    """The users of a run. `shared` are the candidates of all users, None if each row of the table has its own."""

    table: Table
    shared: list[str] | None

    def partitions(self, size: int) -> Iterator[Partition]:
        """Yield the partitions of `size` users in the table's order, which does not depend on how its files are cut.

        Raises TableError for a file that cannot be read.
        """
        columns = [USER] if self.shared is not None else [USER, CANDIDATES]
        pieces: list[Batch] = []
        rows = 0
        number = 0
        for batch in self.table.batches(columns, lists=[CANDIDATES], batch_rows=size):
            # A batch may go over the end of a partition, but has no more rows than one.
            start = 0
            while rows + len(batch) - start >= size:
                end = start + size - rows
                yield Partition(number, (*pieces, _between(batch, start, end)))
                start = end
                pieces = []
                rows = 0
                number += 1
            if start < len(batch):
                pieces.append(_between(batch, start, len(batch)))
                rows += len(batch) - start
        if pieces:
            yield Partition(number, tuple(pieces))


def _ids(piece: Batch, row: Sequence[object], place: int) -> list[str]:
    """The ids of one list as text, written as those of a column `item_id`: 12.0 is 12."""
    try:
        ids = [text_of(value, CANDIDATES) for value in row]
    except FeatureError as error:
        raise piece.error(CANDIDATES, f"column '{CANDIDATES}': {error.message}", place) from None
    if "" in ids:
        problem = f"column '{CANDIDATES}' has a missing id: element {ids.index('') + 1}"
        raise piece.error(CANDIDATES, problem, place)
    return ids


def _between(batch: Batch, start: int, end: int) -> Batch:
    """The rows of a batch from `start` to `end`, copied: a slice would be sent with the whole batch."""
    return batch.selection(np.arange(start, end))


def open_users(users: str, candidates: str | None) -> tuple[UserTable, dict[str, Table]]:
    """Open the tables of a run, also by their roles. Raises BatchError and TableError."""
    table = open_table(users, "users")
    table.require({USER: "a batch run"})
    if candidates is None:
        table.require({CANDIDATES: "a run without --candidates"})
        return UserTable(table, None), {"users": table}
    items = open_table(candidates, "candidates")
    items.require({ITEM: "a batch run"})
    shared: list[str] = []
    for batch in items.batches([ITEM]):
        shared += batch.ids(ITEM)
    if not shared:
        raise BatchError(f"{candidates} has no candidates")
    return UserTable(table, shared), {"users": table, "candidates": items}
