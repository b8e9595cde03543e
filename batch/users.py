"""Reads the users of a batch run and their candidates, one partition at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from batch.errors import BatchError
from tables import Table, open_table

USER = "user_id"
ITEM = "item_id"
CANDIDATES = "candidates"


@dataclass(frozen=True)
class Partition:
    """Consecutive users of the table. `candidates` has one list per user, None if all users have the same list."""

    number: int
    users: list[str]
    candidates: list[list[str]] | None


@dataclass(frozen=True)
class UserTable:
    """The users of a run. `shared` are the candidates of all users, None if each row of the table has its own."""

    table: Table
    shared: list[str] | None

    def partitions(self, size: int) -> Iterator[Partition]:
        """Yield the partitions of `size` users in the table's order, which does not depend on how the file is cut.

        Raises TableError for a missing id.
        """
        users: list[str] = []
        lists: list[list[str]] = []
        number = 0
        columns = [USER] if self.shared is not None else [USER, CANDIDATES]
        for batch in self.table.batches(columns, lists=[CANDIDATES], batch_rows=size):
            users += batch.ids(USER)
            if self.shared is None:
                lists += [[str(item) for item in row or ()] for row in batch.lists(CANDIDATES)]
            # A batch of a CSV may be larger than a partition, and one of Parquet smaller.
            while len(users) >= size:
                yield Partition(number, users[:size], None if self.shared is not None else lists[:size])
                users = users[size:]
                lists = lists[size:]
                number += 1
        if users:
            yield Partition(number, users, None if self.shared is not None else lists)


def open_users(users: Path, candidates: Path | None) -> UserTable:
    """Open the tables of a run. Raises BatchError and TableError."""
    table = open_table(users, "users")
    table.require({USER: "a batch run"})
    if candidates is None:
        table.require({CANDIDATES: "a run without --candidates"})
        return UserTable(table, None)
    items = open_table(candidates, "candidates")
    items.require({ITEM: "a batch run"})
    shared: list[str] = []
    for batch in items.batches([ITEM]):
        shared += batch.ids(ITEM)
    if not shared:
        raise BatchError(f"{candidates} has no candidates")
    return UserTable(table, shared)
