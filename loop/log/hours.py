"""The compacted part of a log: one Parquet file per hour and kind of record, by the clock of the service.

LOG/hours/2026-11-27T09/exposures.parquet

Each file lists the stream files that it contains, so that a compaction after an interrupted one takes none twice.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.files.writing import replacing
from loop.errors import LogError
from tables.log_records import SCHEMAS, RecordKind, completed

HOURS: Final = "hours"
HOUR_MS: Final = 3_600_000
_SOURCES = b"funnelrank.sources"
_BATCH = 64  # records that are read at once: one exposure may have a MiB
_GROUP_BYTES = 32 << 20  # of a row group in memory


def hour_name(hour: int) -> str:
    """Name an hour since 1970 (UTC), such as `2026-11-27T09`."""
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m-%dT%H")


def hour_file(folder: Path, hour: int, kind: RecordKind) -> Path:
    return folder / HOURS / hour_name(hour) / f"{kind.value}.parquet"


def hour_files(folder: Path, kind: RecordKind) -> list[Path]:
    """The files of a kind, oldest first."""
    return sorted((folder / HOURS).glob(f"*/{kind.value}.parquet"))


def hours_of(batch: pa.RecordBatch) -> list[int]:
    """The hours in which the records of a batch were logged."""
    return [int(hour) for hour in pc.unique(_hour(batch)).to_pylist()]


def of_hour(batch: pa.RecordBatch, hour: int) -> pa.RecordBatch:
    return batch.filter(pc.equal(_hour(batch), hour))


def _hour(batch: pa.RecordBatch) -> pa.Array:
    return pc.divide(batch.column("logged_ms"), HOUR_MS)


def sources_of(path: Path) -> list[str]:
    """Return the stream files whose records a file of an hour contains. Raises LogError if it cannot be read."""
    if not path.exists():
        return []
    with opened_parquet(path) as file:
        metadata = file.schema_arrow.metadata or {}
    sources: list[str] = json.loads(metadata.get(_SOURCES, b"[]"))
    return sources


def add_to_hour(
    path: Path, kind: RecordKind, sources: Sequence[str], new: Callable[[], Iterable[pa.RecordBatch]]
) -> None:
    """Rewrite a file of an hour: its present records, and the `new` records of more `sources`. Memory: one
    row group.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, kind, [*sources_of(path), *sources], chain(records_of(path), new()))


def rewrite_hour(path: Path, kind: RecordKind, keep: Callable[[pa.RecordBatch], pa.RecordBatch]) -> int:
    """Rewrite a file of an hour with the records that `keep` returns. Returns how many records were removed.

    A file without such records does not change. Raises LogError if it cannot be read.
    """
    sources = sources_of(path)
    removed = sum(int(batch.num_rows - keep(batch).num_rows) for batch in records_of(path))
    if removed:
        _write(path, kind, sources, (keep(batch) for batch in records_of(path)))
    return removed


def records_of(path: Path) -> Iterator[pa.RecordBatch]:
    """The records of a file of an hour, in batches; none if there is no such file."""
    if path.exists():
        with opened_parquet(path) as file:
            yield from file.iter_batches(batch_size=_BATCH)


@contextmanager
def opened_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a file of the log or its tables. Raises LogError with its name, also if a part read later is broken."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LogError(f"{path} cannot be read ({reason}); move it away, or restore it, and try again") from None


def check_hour(path: Path) -> None:
    """Read a file of an hour to its end. Raises LogError if a part of it is broken."""
    with opened_parquet(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH):
            batch.validate(full=True)


def _write(path: Path, kind: RecordKind, sources: Sequence[str], batches: Iterable[pa.RecordBatch]) -> None:
    names = json.dumps(list(sources)).encode()
    schema = SCHEMAS[kind].with_metadata({**SCHEMAS[kind].metadata, _SOURCES: names})
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for group in _grouped(completed(kind, batch) for batch in batches):
            writer.write_table(pa.Table.from_batches(group, SCHEMAS[kind]).combine_chunks())


def _grouped(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    group: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        group.append(batch)
        size += batch.nbytes
        if size >= _GROUP_BYTES:
            yield group
            group = []
            size = 0
    if group:
        yield group


def expired(folder: Path, keep_hours: float | None, keep_bytes: int | None, now_ms: int) -> list[Path]:
    """Return the folders of hours that are too old, and the oldest ones if all together are too large."""
    there = sorted(path for path in (folder / HOURS).glob("*T*") if path.is_dir())
    sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in there}
    oldest = "" if keep_hours is None else hour_name(int(now_ms / HOUR_MS - keep_hours))
    removed = [path for path in there if path.name < oldest]
    excess = sum(sizes.values()) - sum(sizes[path] for path in removed) - (keep_bytes or 0)
    for path in there:
        if keep_bytes is None or excess <= 0:
            break
        if path not in removed:
            removed.append(path)
            excess -= sizes[path]
    return sorted(removed)


def remove(folders: Iterable[Path]) -> None:
    for path in folders:
        shutil.rmtree(path)
