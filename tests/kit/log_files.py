"""Files of an exposure log for tests: closed ones, and such as a killed worker leaves."""

import os
from pathlib import Path
from typing import Any

from service.exposures.folder import prepare
from service.exposures.spool import Spool, SpoolLimits
from tables.log_records import RecordKind, batch_of

HOUR = 3_600_000
FIRST = 1_650_988_800_000  # 2022-04-26T16:00 (UTC)
EVENTS = RecordKind.EVENTS


def event(name: str, at: int) -> dict[str, Any]:
    return {"event_id": name, "user_id": "1", "item_id": "2", "action": "click", "time_ms": at, "logged_ms": at}


def write(log: Path, *rows: dict[str, Any], kind: RecordKind = EVENTS, batches: int = 1) -> Path:
    """Write a closed file of the log with these rows; return its path."""
    prepare(log)
    before = set((log / "spool").iterdir())
    spool = Spool(log, {kind: lambda batch: batch_of(kind, batch)}, SpoolLimits())
    size = -(-len(rows) // batches)
    for start in range(0, len(rows), size):
        spool.write(kind, list(rows[start : start + size]))
    spool.close()
    (path,) = set((log / "spool").iterdir()) - before
    return path


def crashed(path: Path, cut: int = 0) -> Path:
    """Write a file as a killed worker leaves it: without its end, and without its last `cut` bytes."""
    path.write_bytes(path.read_bytes()[: -8 - cut])
    open_path = path.with_name(f"{path.name}.open")
    path.rename(open_path)
    os.utime(open_path, (0, 0))
    return open_path
