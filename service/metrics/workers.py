"""Shares status and metrics among the workers of one host: each writes one record into the run-time folder.

A fault here does not affect rankings. A folder that was removed is created again. If a record cannot be written, one
log line says so, and the next attempt follows after half a second. Records of ended workers are added up in one file,
under a lock, before each page of metrics.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import orjson

from service.metrics.families import Families, combined, without_gauges
from service.metrics.record_file import RecordFile, is_alive, read_record

log = logging.getLogger("funnelrank.metrics")
_ENDED = "ended.json"
_LOCK_SECONDS = 1.0


class WorkerRecords:
    """The records in one run-time folder. Without a folder, a process sees only itself."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._name = f"worker-{os.getpid()}.{token_hex(4)}.json"
        self._status: dict[str, Any] = {}
        self._changed = asyncio.Event()
        self._file: RecordFile | None = None
        self._failing = False

    @property
    def shared(self) -> bool:
        """Whether other workers read the record of this one."""
        return self._folder is not None

    def set_status(self, status: dict[str, Any]) -> None:
        """Set the status of this worker; the next `write` publishes it."""
        if status != self._status:
            self._status = status
            self._changed.set()

    async def changed(self, longest_s: float) -> None:
        """Wait until this worker has a new status, for at most `longest_s` seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), longest_s)
        self._changed.clear()

    def write(self, families: Families) -> None:
        """Write this worker's record. Errors of the disk are logged and not raised."""
        if self._folder is None:
            return
        content = orjson.dumps({"status": self._status, "metrics": families})
        try:
            self._write(self._folder, content)
        except OSError as error:
            if not self._failing:
                log.error("this worker cannot share its metrics and status; rankings go on: %s", error)
            self._failing = True
            return
        if self._failing:
            log.info("this worker shares its metrics and status again")
        self._failing = False

    def statuses(self) -> list[dict[str, Any]]:
        """The status of every living worker of this host, by process id."""
        others = [record["status"] for _, alive, record in self._others() if alive]
        statuses = [status for status in (self._status, *others) if status]
        return sorted(statuses, key=lambda status: int(status["pid"]))

    def families(self, present: Families) -> Families:
        """Combine the metrics of all workers: `present` of this one, the last records of the others, and those of ended
        workers without gauges.
        """
        if self._folder is None:
            return present
        try:
            with self._locked(self._folder) as locked:
                return self._families(self._folder, present, locked)
        except OSError as error:
            if not self._failing:
                log.warning("the metrics of the other workers cannot be read: %s", error)
            return present

    def close(self) -> None:
        """Mark this worker's record as that of an ended worker."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, folder: Path, content: bytes) -> None:
        if self._file is not None and self._file.takes(content):
            self._file.write(content)
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = self._file
        self._file = RecordFile(folder / self._name, content)
        if before is not None:
            before.close()

    def _families(self, folder: Path, present: Families, locked: bool) -> Families:
        ended = _ended(folder)
        living = [present]
        dead: dict[str, Families] = {}
        for path, alive, record in self._others():
            if alive:
                living.append(record["metrics"])
            elif path.name not in ended["workers"]:
                dead[path.name] = without_gauges(record["metrics"])
        if locked and dead:
            _merge(folder, ended, dead)
        return combined([*living, ended["metrics"], *dead.values()])

    def _others(self) -> Iterator[tuple[Path, bool, dict[str, Any]]]:
        """For every other worker: the path of its record, whether it is alive, and its last record."""
        if self._folder is None:
            return
        for path in sorted(self._folder.glob("worker-*.json")):
            try:
                if path.name == self._name or not path.is_file():
                    continue
                alive = is_alive(path)
                content = read_record(path)
            except OSError:  # removed since the folder was listed
                continue
            if content is not None:
                yield path, alive, orjson.loads(content)

    @contextlib.contextmanager
    def _locked(self, folder: Path) -> Iterator[bool]:
        """Take the lock of the sums; return False if another process holds it for longer than a second."""
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield _lock(descriptor)
        finally:
            os.close(descriptor)


def _ended(folder: Path) -> dict[str, Any]:
    """Return the metrics of ended workers, and the names of the records that they include."""
    try:
        ended: dict[str, Any] = orjson.loads((folder / _ENDED).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        ended = {"workers": [], "metrics": {}}
    return ended


def _merge(folder: Path, ended: dict[str, Any], dead: dict[str, Families]) -> None:
    """Add the records of ended workers to the file of sums, then remove them. If the disk is full, nothing changes."""
    # A record that could not be removed stays in the list of names, so that it is not added twice.
    names = sorted({name for name in ended["workers"] if (folder / name).exists()} | set(dead))
    total = {"workers": names, "metrics": combined([ended["metrics"], *dead.values()])}
    temporary = folder / f"{_ENDED}.tmp"
    try:
        temporary.write_bytes(orjson.dumps(total))
        temporary.replace(folder / _ENDED)
    except OSError:
        temporary.unlink(missing_ok=True)
        return
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _lock(descriptor: int) -> bool:
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        else:
            return True
