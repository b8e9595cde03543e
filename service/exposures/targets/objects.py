"""Sends files of the log to an object store.

PREFIX/spool/<name>             the files, byte for byte
PREFIX/schemas/<schema>.json    the feature schemas that their records name

Credentials come from where each store's own tools find them: its variables, its files, or the machine's identity.
"""

from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from service.exposures.folder import FEATURE_SCHEMAS, SPOOL
from service.exposures.targets.target import LogTargetError
from service.log_address import LogAddress

_CHUNK_BYTES = 8 << 20
_CHUNKS_AT_ONCE = 4


def open_store(address: LogAddress) -> ObjectStore:
    """Open the store of an address. Raises LogTargetError."""
    try:
        if address.scheme == "file":
            return LocalStore(unquote(urlsplit(address.uri).path), mkdir=True)
        # The shipper tries again itself, so that a store that is away is seen within seconds.
        return from_url(
            address.uri,
            # These replace what the store's variables say of its client. A plain address is used only if one is named.
            client_options={"connect_timeout": "5s", "timeout": "60s", "allow_http": True},
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=10)},
        )
    except (BaseError, OSError, ValueError) as error:
        raise LogTargetError(f"{address.uri}: {_in_one_line(error)}") from None


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
            raise LogTargetError(_in_one_line(error)) from None


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
