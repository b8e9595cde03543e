"""Takes the files of a log from an object store."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import obstore
from obstore.exceptions import BaseError

from features.files.object_errors import in_one_line
from features.files.writing import replacing
from loop.errors import LogError
from service.addresses.log_address import LogAddress
from service.exposures.folder import FEATURE_SCHEMAS, SPOOL, STREAM_NAME
from service.exposures.stream import OPEN_SUFFIX
from service.exposures.targets.objects import open_store
from service.exposures.targets.target import LogTargetError

_SCHEMA_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}\.json")
_ROUND_BYTES = 4 << 30  # taken before they are compacted, so that the spool needs no more room


class ObjectSource:
    """The files of a log in an object store, oldest first."""

    def __init__(self, address: LogAddress) -> None:
        """Raises LogError."""
        try:
            self._store = open_store(address)
        except LogTargetError as error:
            raise LogError(str(error)) from None
        self._uri = address.uri
        self.foreign = 0
        self._offered: set[str] = set()  # in this run; a file that stays in the spool is not taken twice

    def take(self, folder: Path) -> Sequence[str]:
        with self._named():
            sizes = {
                entry["path"].removeprefix(f"{SPOOL}/"): entry["size"]
                for entries in obstore.list(self._store, SPOOL)
                for entry in entries
            }
        self.foreign = sum(not STREAM_NAME.fullmatch(name) for name in sizes)
        file_names: list[str] = []
        size = 0
        for name in sorted(sizes.keys() - self._offered, key=lambda name: name.partition("-")[2]):
            if not STREAM_NAME.fullmatch(name):
                continue
            if file_names and size + sizes[name] > _ROUND_BYTES:
                break
            file_names.append(name)
            size += sizes[name]
        # A schema is sent before the first file that needs it, so it is there now.
        if file_names:
            self._take_schemas(folder)
        for name in file_names:
            path = folder / SPOOL / name
            self._fetch(f"{SPOOL}/{name}", path)
            if name.endswith(OPEN_SUFFIX):
                os.utime(path, (0, 0))  # a fresh one would count as being written
        self._offered.update(file_names)
        return file_names

    def remove(self, taken: Sequence[str]) -> None:
        with self._named():
            obstore.delete(self._store, [f"{SPOOL}/{name}" for name in taken])

    def _take_schemas(self, folder: Path) -> None:
        with self._named():
            paths = [entry["path"] for entries in obstore.list(self._store, FEATURE_SCHEMAS) for entry in entries]
        (folder / FEATURE_SCHEMAS).mkdir(exist_ok=True)
        for name in (path.removeprefix(f"{FEATURE_SCHEMAS}/") for path in paths):
            # Whatever lies deeper, or has another form, is not what a service has sent.
            if _SCHEMA_NAME.fullmatch(name) and not (folder / FEATURE_SCHEMAS / name).exists():
                self._fetch(f"{FEATURE_SCHEMAS}/{name}", folder / FEATURE_SCHEMAS / name)

    def _fetch(self, name: str, path: Path) -> None:
        """Download an object to a file, whole or not at all. A failed write raises OSError."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            with self._named():
                stream = obstore.get(self._store, name).stream()
            while True:
                with self._named():
                    part = next(stream, None)
                if part is None:
                    break
                file.write(part)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the store in its errors."""
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            raise LogError(f"{self._uri}: {in_one_line(error)}") from None
