"""Reads the stream files that workers write: complete files, files cut by a crash, and foreign files."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc

from service.exposures.folder import SPOOL, STREAM_NAME, has_writer
from tables.log_records import RecordKind, kind_of


@dataclass(frozen=True)
class StreamCheck:
    """One file of the spool: its kind (None for a foreign file), and its problem, which may be empty.

    `cut`: its last batch is incomplete, as after a crash. `damaged`: another part than its end is broken.
    """

    path: Path
    kind: RecordKind | None
    rows: int = 0
    problem: str = ""
    cut: bool = False
    damaged: bool = False


@dataclass(frozen=True)
class SpoolFiles:
    """The files of the spool: those that can be compacted, those that a living worker writes, and foreign ones."""

    readable: list[StreamCheck]
    in_use: list[Path]
    foreign: list[StreamCheck]


def spool_files(folder: Path) -> SpoolFiles:
    """List the spool of a log, by name."""
    readable: list[StreamCheck] = []
    in_use: list[Path] = []
    foreign: list[StreamCheck] = []
    for path in sorted((folder / SPOOL).iterdir()):
        if path.name.startswith("."):
            continue
        if not STREAM_NAME.fullmatch(path.name):
            foreign.append(StreamCheck(path, None, problem="its name is not one of this log"))
        elif has_writer(path):
            in_use.append(path)
        else:
            check = checked(path)
            (readable if check.kind else foreign).append(check)
    return SpoolFiles(readable, in_use, foreign)


def checked(path: Path) -> StreamCheck:
    """Read a file to its end, or to the first broken part."""
    kind: RecordKind | None = None
    rows = 0
    if path.exists() and not path.is_file():  # reading a pipe may never end
        return StreamCheck(path, None, problem="it is not a regular file")
    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            kind = kind_of(stream.schema)
            if kind is None:
                return StreamCheck(path, None, problem="its columns are not those of a record of this log")
            for batch in stream:
                batch.validate(full=True)
                rows += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        problem = " ".join(str(error).split())[:200]
        # A file that was cut ends in the middle of a message; one that was cut early does not even have a schema.
        if kind is None:
            return StreamCheck(path, _kind_by_name(path), problem=problem, cut=True)
        is_open = path.name.endswith(".open")
        return StreamCheck(path, kind, rows, problem, cut=is_open, damaged=not is_open)
    return StreamCheck(path, kind, rows)


def batches(check: StreamCheck) -> Iterator[pa.RecordBatch]:
    """The whole batches of a file, as far as it can be read."""
    rows = 0
    if not check.rows:
        return
    with pa.memory_map(str(check.path)) as file, closing(pa.ipc.open_stream(file)) as stream:
        while rows < check.rows:
            batch = stream.read_next_batch()
            rows += batch.num_rows
            yield batch


def _kind_by_name(path: Path) -> RecordKind | None:
    return RecordKind(path.name.partition("-")[0]) if path.name.endswith(".open") else None
