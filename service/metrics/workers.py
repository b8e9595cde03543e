"""Owns what the workers of one host tell of themselves: one small file per process, in the folder that they share for their metrics."""

import os
from pathlib import Path
from typing import Any

import orjson

from service.metrics.metrics import DIRECTORY_VARIABLE

_PREFIX = "worker-"


class StatusFile:
    """What this worker says; written where it has changed. Without a shared folder it is known to this process alone."""

    def __init__(self) -> None:
        folder = os.environ.get(DIRECTORY_VARIABLE)
        self._path = Path(folder) / f"{_PREFIX}{os.getpid()}.json" if folder else None
        self._told: bytes = b""

    def tell(self, status: dict[str, Any]) -> None:
        text = orjson.dumps(status)
        if text == self._told:
            return
        self._told = text
        if self._path is not None:
            temporary = self._path.with_suffix(".tmp")
            temporary.write_bytes(text)
            temporary.replace(self._path)

    def all(self) -> list[dict[str, Any]]:
        """What every living worker of this host said last, by process id."""
        if self._path is None:
            return [orjson.loads(self._told)] if self._told else []
        found = []
        for path in self._path.parent.glob(f"{_PREFIX}*.json"):
            pid = path.stem.removeprefix(_PREFIX)
            if not Path(f"/proc/{pid}").exists():
                path.unlink(missing_ok=True)
                continue
            try:
                found.append(orjson.loads(path.read_bytes()))
            except FileNotFoundError:
                continue
        return sorted(found, key=lambda s: int(s["pid"]))

    def forget(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove what workers of an earlier run left."""
    for path in folder.glob(f"{_PREFIX}*.json"):
        path.unlink(missing_ok=True)
