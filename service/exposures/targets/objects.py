"""Sends files of the log to an object store.

PREFIX/spool/<name>             the files, byte for byte
PREFIX/schemas/<schema>.json    the feature schemas that their records name
"""

from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from features.files.object_errors import in_one_line
from service.addresses.log_address import LogAddress
from service.exposures.folder import FEATURE_SCHEMAS, SPOOL
from service.exposures.targets.target import LogTargetError
from service.objects.opening import CannotOpen, open_objects

_CHUNK_BYTES = 8 << 20
_CHUNKS_AT_ONCE = 4
_RETRIES = 2
_TIMEOUT = "60s"


def open_store(address: LogAddress) -> ObjectStore:
    """Open the store of an address. Raises LogTargetError."""
    try:
        # The shipper tries again itself, so that a store that is away is seen within seconds.
        return open_objects(address, _RETRIES, _TIMEOUT)
    except CannotOpen as error:
        raise LogTargetError(str(error)) from None


class ObjectTarget:
    """Puts each file as one object; an object is there whole or not at all."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._schemas: set[str] = set()

    def send(self, path: Path) -> int:
        self._put(f"{SPOOL}/{path.name}", path)
        return 0

    def send_schema(self, path: Path) -> None:
        # A schema's name is its content's hash, so one put is enough.
        if path.name not in self._schemas:
            self._put(f"{FEATURE_SCHEMAS}/{path.name}", path)
            self._schemas.add(path.name)

    def _put(self, name: str, path: Path) -> None:
        try:
            obstore.put(self._store, name, path, chunk_size=_CHUNK_BYTES, max_concurrency=_CHUNKS_AT_ONCE)
        except (BaseError, OSError) as error:
            raise LogTargetError(in_one_line(error)) from None
