"""Runs a batch: skips the partitions that are written, scores the others, and reports the progress."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import monotonic

from batch.errors import BatchError
from batch.job import BatchJob, BatchOptions, begin_or_continue, recorded_timestamp, state_of
from batch.partition import BatchCounts, path_of, read_counts, remove_leftovers
from batch.scorer import ScorerStart
from batch.user_outputs import read_users, user_path
from batch.users import Partition, open_users
from features.files.writing import write_whole
from service.clock import now_ms
from service.files import exclusive_lock
from service.settings import Settings

DONE_FILE = "done.json"
Runner = Callable[[ScorerStart, Iterator[Partition]], Iterator[BatchCounts]]


@dataclass
class BatchProgress:
    """What a run has done: `before` by earlier runs in the folder, `now` by this one since `started`."""

    users: int | None
    before: BatchCounts = field(default_factory=BatchCounts)
    now: BatchCounts = field(default_factory=BatchCounts)
    started: float = field(default_factory=monotonic)

    @property
    def total(self) -> BatchCounts:
        return self.before + self.now

    def line(self) -> str:
        """One line: users, pairs, speed, and the cost per million pairs."""
        total = self.total
        users = f"{total.users:,}" if self.users is None else f"{total.users:,} of {self.users:,}"
        text = f"{users} users, {total.pairs:,} pairs"
        if self.now.pairs:
            seconds = max(monotonic() - self.started, 1e-9)
            cost = 1e6 * self.now.cpu_s / self.now.pairs
            text += f", {self.now.pairs / seconds:,.0f} pairs/s, {cost:.1f} CPU s per million pairs"
        return text


def score(
    users: str,
    candidates: str | None,
    out: Path,
    options: BatchOptions,
    settings: Settings,
    runner: Runner,
    report: Callable[[str], object] = print,
) -> BatchCounts:
    """Rank all users of a table and write a partition for every `options.partition_users` of them.

    `users` and `candidates` are files, folders, patterns or URIs. `runner` scores partitions, as `score_in_processes`
    does. Run again after an interruption, it scores what is missing. Returns the counts of the whole output.

    Raises BatchError, TableError and OSError.
    """
    table, tables = open_users(users, candidates)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive_lock(out / ".lock", 0):
            # Only the same run may continue in a folder, as of the time at which it was begun.
            options = replace(options, timestamp=options.timestamp or recorded_timestamp(out) or now_ms())
            job = BatchJob(out, options, state_of(settings, tables))
            begin_or_continue(job)
            remove_leftovers(out)
            (out / DONE_FILE).unlink(missing_ok=True)
            # Score what is missing.
            progress = BatchProgress(table.table.rows)
            missing = _missing(job, table.partitions(options.partition_users), progress)
            for counts in runner(ScorerStart(job, settings, table.shared), missing):
                progress.now += counts
                report(progress.line())
            total = progress.total
            write_whole(out / DONE_FILE, json.dumps(asdict(total)).encode())
    except TimeoutError:
        raise BatchError(f"{out}: another run writes here") from None
    return total


def _missing(job: BatchJob, partitions: Iterator[Partition], progress: BatchProgress) -> Iterator[Partition]:
    """Yield the partitions that are not written yet, and count the others."""
    for partition in partitions:
        counts = _counts_of(job, partition)
        if counts is None:
            yield partition
        else:
            progress.before += counts


def _counts_of(job: BatchJob, partition: Partition) -> BatchCounts | None:
    """The counts of a partition; None if a file of it is missing. Raises BatchError for one of another run."""
    rankings = path_of(job.out, partition.number)
    counts = read_counts(rankings)
    if counts is None:
        return None
    users = {rankings: counts.users}
    if job.options.user_outputs:
        vectors = user_path(job.out, partition.number)
        number = read_users(vectors)
        if number is None:
            # Otherwise a run that is killed between the two files leaves vectors of now with rankings of before.
            rankings.unlink()
            return None
        users[vectors] = number
    for path, number in users.items():
        if number != len(partition):
            raise BatchError(f"{path} has the users of another run")
    return counts
