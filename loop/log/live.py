"""Reads a log while it is written: the compacted hours, and the records that the spool has beside them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from loop.log.hours import hour_files
from loop.log.streams import batches, checked
from loop.log.tombstones import Tombstone, read_tombstones, without_forgotten
from service.exposures.folder import SPOOL
from tables.log_records import SCHEMAS, RecordKind, completed


def live_files(log: Path, scratch: Path) -> dict[RecordKind, list[Path]]:
    """The Parquet files of a log, oldest first; the records of the spool are copied to `scratch`.

    Streams that are still written are read up to their last whole batch. Nothing of the log is changed. A record may be
    in an hour and in the spool, if a compaction runs meanwhile or was interrupted. Records of forgotten users are left
    out. Memory: one batch of a stream.
    """
    tombstones = read_tombstones(log)
    copies: dict[RecordKind, list[Path]] = {kind: [] for kind in RecordKind}
    # The name begins with the kind and the time.
    for path in sorted((log / SPOOL).glob("*.arrows*")):
        copy = scratch / f"{path.name.partition('.')[0]}.parquet"
        # A file loses `.open` when it is closed, and is removed when its records are in the hours, listed below.
        for name in dict.fromkeys((path, path.with_name(path.name.removesuffix(".open")))):
            try:
                kind = _copied(name, copy, tombstones)
            except FileNotFoundError:
                continue
            if kind is not None:
                copies[kind].append(copy)
                break
    return {kind: [*hour_files(log, kind), *copies[kind]] for kind in RecordKind}


def _copied(path: Path, copy: Path, tombstones: list[Tombstone]) -> RecordKind | None:
    """Copy the whole batches of a stream to a Parquet file; return their kind, None if there are none."""
    check = checked(path)
    if check.kind is None or not check.rows:
        return None
    kind = check.kind
    with pq.ParquetWriter(copy, SCHEMAS[kind], compression="zstd") as writer:
        for batch in batches(check):
            remaining = completed(kind, without_forgotten(kind, batch, tombstones))
            if remaining.num_rows:
                writer.write_table(pa.Table.from_batches([remaining], SCHEMAS[kind]))
    return kind
