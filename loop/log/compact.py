"""Compacts a log: turns the spool's stream files into one Parquet file per hour and kind.

It may be interrupted at any time and run again: a file of an hour is replaced as a whole and lists its sources, and a
source is removed only after all its hours are written.
"""

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow as pa

from loop.errors import LogError
from loop.log.hours import add_to_hour, expired, hour_file, hour_name, hours_of, of_hour, remove, sources_of
from loop.log.sources import LogSource
from loop.log.streams import StreamCheck, batches, spool_files
from loop.log.tombstones import (
    Tombstone,
    add_tombstone,
    forgotten,
    read_tombstones,
    requests_by_user,
    without_forgotten,
)
from service.clock import now_ms
from service.exposures.folder import SPOOL, prepare
from tables.log_records import RecordKind

DAMAGED: Final = "damaged"


@dataclass
class Compaction:
    """The result of a compaction. `rows` counts records by kind; `hours` are the hours that were written; `foreign` is
    what the source has beside files of a log.
    """

    files: int = 0
    foreign: int = 0
    rows: dict[RecordKind, int] = field(default_factory=dict)
    hours: set[str] = field(default_factory=set)
    in_use: list[Path] = field(default_factory=list)
    faulty: list[StreamCheck] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def compact(
    folder: Path, keep_hours: float | None = None, keep_bytes: int | None = None, source: LogSource | None = None
) -> Compaction:
    """Compact the log in `folder`, then remove hours beyond the given age or size.

    With a `source`, the files that services have sent there are taken first; the source removes them when
    their hours are written. Records of forgotten users are left out. Raises LogError if it is not a log, if another
    compaction runs, if a file of an hour cannot be read, or if the source cannot be reached.
    """
    if source is not None:
        prepare(folder)
    if not (folder / SPOOL).is_dir():
        raise LogError(f"{folder} is no exposure log: it has no folder '{SPOOL}' (FUNNELRANK_EXPOSURE_LOG)")
    with alone(folder):
        done = Compaction()
        while True:
            file_names = [] if source is None else source.take(folder)
            _compact_spool(folder, done)
            if source is None or not file_names:
                break
            source.remove(file_names)
        done.foreign = 0 if source is None else source.foreign
        old = expired(folder, keep_hours, keep_bytes, now_ms())
        remove(old)
        done.removed = [path.name for path in old]
    return done


def _compact_spool(folder: Path, done: Compaction) -> None:
    """Bring every file of the spool into its hours, and remove it."""
    spooled = spool_files(folder)
    tombstones = _extended(folder, spooled.readable)
    done.in_use = spooled.in_use
    # Foreign files stay in the spool, so a later round meets them again.
    named = {check.path for check in done.faulty}
    faulty = [check for check in (*spooled.readable, *spooled.foreign) if check.problem]
    done.faulty += [check for check in faulty if check.path not in named]
    for kind in RecordKind:
        _compact_kind(folder, kind, [check for check in spooled.readable if check.kind == kind], tombstones, done)
    # Every hour has its records now.
    for check in spooled.readable:
        _put_away(folder, check)
        done.files += 1


def _extended(folder: Path, checks: Sequence[StreamCheck]) -> list[Tombstone]:
    """Return the tombstones, with the requests of forgotten users that the spool still has.

    They are written first, so that the impressions of these requests are left out in every later run too.
    """
    tombstones = read_tombstones(folder)
    if not tombstones:
        return []
    by_user = {each.user: each for each in tombstones}
    for check in checks:
        if check.kind != RecordKind.EXPOSURES:
            continue
        for batch in batches(check):
            # Requests of users who returned after they were forgotten are not theirs to lose.
            for user, requests in requests_by_user(batch.filter(forgotten(check.kind, batch, tombstones))).items():
                if not requests <= by_user[user].requests:
                    by_user[user] = add_tombstone(folder, user, by_user[user].until_ms, requests)
    return list(by_user.values())


def _compact_kind(
    folder: Path, kind: RecordKind, checks: Sequence[StreamCheck], tombstones: Sequence[Tombstone], done: Compaction
) -> None:
    by_hour: dict[int, list[StreamCheck]] = {}
    for check in checks:
        for hour in sorted({hour for batch in _kept(check, kind, tombstones) for hour in hours_of(batch)}):
            by_hour.setdefault(hour, []).append(check)
    for hour, sources in sorted(by_hour.items()):
        path = hour_file(folder, hour, kind)
        known = sources_of(path)
        new = [check for check in sources if _source(check) not in known]
        if new:
            add_to_hour(path, kind, [_source(check) for check in new], partial(_rows, new, hour, kind, tombstones))
            done.hours.add(hour_name(hour))
    done.rows[kind] = done.rows.get(kind, 0) + sum(check.rows for check in checks)


def _rows(
    checks: Sequence[StreamCheck], hour: int, kind: RecordKind, tombstones: Sequence[Tombstone]
) -> Iterator[pa.RecordBatch]:
    for check in checks:
        for batch in _kept(check, kind, tombstones):
            part = of_hour(batch, hour)
            if part.num_rows:
                yield part


def _kept(check: StreamCheck, kind: RecordKind, tombstones: Sequence[Tombstone]) -> Iterator[pa.RecordBatch]:
    """The batches of a file without records of forgotten users."""
    for batch in batches(check):
        yield without_forgotten(kind, batch, tombstones)


def _source(check: StreamCheck) -> str:
    """Return a file's name, which is the same before and after it was closed."""
    return check.path.name.removesuffix(".open")


def _put_away(folder: Path, check: StreamCheck) -> None:
    """Remove a source; move a damaged one aside, so that somebody can examine it."""
    if check.damaged:
        (folder / DAMAGED).mkdir(exist_ok=True)
        check.path.replace(folder / DAMAGED / check.path.name)
    else:
        check.path.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of those who write the hours of a log. Raises LogError if somebody else has it."""
    with (folder / ".compact.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LogError(f"another compaction of {folder} runs") from None
        yield
