"""Makes the sentences of skip-gram from behaviours: the items of each user in the order of time."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from features.times import latest_now_ms
from models.data.arrays import ArrayFile, read_array
from models.data.encoding.entities import id_keys
from models.data.encoding.known_keys import KnownKeys
from models.data.stored.buckets import Buckets
from models.item_vectors.progress import progress_bar
from models.recipe.sections.data import DataSection
from tables import Table

_BEHAVIOUR = np.dtype([("user", "<u8"), ("item", "<i8"), ("time", "<i8")])
# Users are spread over so many files by the first bits of their keys, which are hashes; one file is sorted at a time.
_BUCKET_BITS = 6
_SHIFT = np.uint64(64 - _BUCKET_BITS)
LONGEST = 10_000  # items of a sentence; gensim leaves out what comes after them


@dataclass(frozen=True)
class Sentences:
    """The sentences of all users, in the order of the users' keys; they may be read any number of times.

    `items`: keys int64 `[n]`; `starts`: where each user's begin, int64 `[users + 1]`; `vocabulary` and `counts`: the
    distinct keys, ascending, and how often each occurs. `later`: how many behaviours were left out as too late.
    """

    items: np.ndarray
    starts: np.ndarray
    vocabulary: np.ndarray
    counts: np.ndarray
    later: int

    def __iter__(self) -> Iterator[list[str]]:
        """Lists of keys as text. A sequence that is longer than LONGEST becomes several sentences."""
        for first, end in pairwise(self.starts):
            for begin in range(first, end, LONGEST):
                yield [str(key) for key in self.items[begin : min(begin + LONGEST, end)].tolist()]

    def __len__(self) -> int:
        """The number of sentences."""
        return int((-(-np.diff(self.starts) // LONGEST)).sum())

    @property
    def longest(self) -> int:
        """The number of items of the longest sequence; 0 if there is none."""
        return int(np.diff(self.starts).max(initial=0))


def read_sentences(table: Table, data: DataSection, before_ms: int, folder: Path, quiet: bool = False) -> Sentences:
    """Read the behaviours that are older than `before_ms`, with files of its own in `folder`. Raises TableError.

    Ids and times are read as training reads them. An item that follows itself, as the click follows the exposure,
    counts once, and so does a repeated row. The result depends neither on the files of the table nor on their order,
    except for the order of a user's behaviours in one millisecond.

    In memory: 16 bytes per user, 64 per item, and 1/64 of the behaviours with 100 bytes each; on the disk 32 bytes per
    behaviour.
    """
    names = {data.user_id: "data.user_id", data.item_id: "data.item_id", data.time_ms: "data.time_ms"}
    for column, key in names.items():
        table.require({column: key}, f"; {key} names the column in all tables")
    users = KnownKeys()
    items = KnownKeys()
    later = 0
    lengths = [np.zeros(1, dtype=np.int64)]
    vocabulary = np.zeros(0, dtype=np.int64)
    counts = np.zeros(0, dtype=np.int64)
    with Buckets(folder / "behaviours", _BEHAVIOUR, 1 << _BUCKET_BITS) as buckets:
        # Write the rows to the file of their user.
        with progress_bar("behaviours", table.rows, "rows", quiet) as bar:
            for batch in table.batches(list(names)):
                rows = np.empty(len(batch), dtype=_BEHAVIOUR)
                rows["time"] = batch.times(data.time_ms, latest_now_ms())
                rows["user"] = id_keys(batch, data.user_id, users).view(np.uint64)
                rows["item"] = id_keys(batch, data.item_id, items)
                used = rows[rows["time"] < before_ms]
                later += len(rows) - len(used)
                buckets.append(used, (used["user"] >> _SHIFT).astype(np.int64))
                bar.update(len(batch))
        # Files ascend by the users' keys, so that the order of all sentences is that of the keys.
        with ArrayFile(folder / "items", np.int64) as file:
            for rows in buckets:
                words = _without_repeats(rows)
                file.append(words["item"])
                lengths.append(np.unique(words["user"], return_counts=True)[1])
                vocabulary, counts = _counted(vocabulary, counts, words["item"])
    starts = np.cumsum(np.concatenate(lengths))
    return Sentences(read_array(folder / "items", np.int64), starts, vocabulary, counts, later)


def _without_repeats(rows: np.ndarray) -> np.ndarray:
    """Behaviours by user and time, without repeated rows and without an item that follows itself."""
    order = np.lexsort((rows["time"], rows["user"]))  # stable: equal times keep the order of the table
    rows = rows[order]
    # Of rows that are equal, the first one stays, at its place.
    by_value = np.lexsort((rows["item"], rows["time"], rows["user"]))
    repeated = np.zeros(len(rows), dtype=bool)
    repeated[by_value[1:]] = rows[by_value[1:]] == rows[by_value[:-1]]
    rows = rows[~repeated]
    follows = (rows["user"][1:] == rows["user"][:-1]) & (rows["item"][1:] == rows["item"][:-1])
    return np.asarray(rows[~np.concatenate([np.zeros(min(1, len(rows)), dtype=bool), follows])])


def _counted(vocabulary: np.ndarray, counts: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The vocabulary and its counts after some more items."""
    more, more_counts = np.unique(items, return_counts=True)
    every, place = np.unique(np.concatenate([vocabulary, more]), return_inverse=True)
    summed = np.bincount(place, weights=np.concatenate([counts, more_counts]), minlength=len(every))
    return every, summed.astype(np.int64)
