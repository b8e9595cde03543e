"""Reads objects of an object store (S3, Google Cloud Storage, Azure) as files.

Credentials come from where each store's own tools find them: its variables, its files, or the machine's identity.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from features.files.object_errors import in_one_line

if TYPE_CHECKING:
    from obstore import ReadableFile
    from obstore.store import ObjectStore, RetryConfig

_BUFFER_BYTES = 1 << 20
_CONNECT_TIMEOUT = "10s"
# A store that has no time (429, 503) is asked again: whoever reads a log can wait, with growing pauses.
_RETRIES: "RetryConfig" = {"max_retries": 10, "retry_timeout": timedelta(minutes=3)}


def is_uri(place: str) -> bool:
    """Return whether a place is the URI of an object store, and not a path."""
    return "://" in place


def list_objects(root: str) -> list[tuple[str, tuple[int, str]]]:
    """The names below `root` with their state. Raises OSError."""
    with _naming(root) as store:
        from obstore import list as list_store

        entries = [entry for several in list_store(store) for entry in several]
    return [(str(entry["path"]), _state(entry["size"], entry["e_tag"], entry["last_modified"])) for entry in entries]


def state_of(root: str, name: str) -> tuple[int, str]:
    """The size and the ETag of an object. Raises OSError."""
    with _naming(root) as store:
        from obstore import head

        entry = head(store, name)
    return _state(entry["size"], entry["e_tag"], entry["last_modified"])


def open_object(root: str, name: str) -> BinaryIO:
    """Open an object for reading. Raises OSError."""
    with _naming(root) as store:
        from obstore import open_reader

        reader = open_reader(store, name, buffer_size=_BUFFER_BYTES)
    return io.BufferedReader(_ObjectFile(reader, root), _BUFFER_BYTES)


class _ObjectFile(io.RawIOBase):
    """An object as a file of Python's io, which pyarrow reads."""

    def __init__(self, reader: "ReadableFile", root: str) -> None:
        self._reader = reader
        self._root = root

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()

    def readinto(self, buffer: Any, /) -> int:
        with _naming(self._root):
            read = self._reader.read(len(buffer))
        buffer[: len(read)] = bytes(read)
        return len(read)


@lru_cache(maxsize=16)
def _store(root: str) -> "ObjectStore":
    from obstore.store import LocalStore, from_url

    if root.startswith("file:"):
        return cast("ObjectStore", LocalStore.from_url(root))
    # A store at a plain address is used only if its variables name one.
    options: Any = {"connect_timeout": _CONNECT_TIMEOUT, "allow_http": True}
    return from_url(root, client_options=options, retry_config=_RETRIES)


def _state(size: int, tag: str | None, modified: object) -> tuple[int, str]:
    if not tag:
        return size, str(modified)
    # Azure's lists have no quotes around an ETag; all other answers do.
    unquoted = tag.strip('"')
    return size, f'"{unquoted}"'


@contextmanager
def _naming(root: str) -> Iterator["ObjectStore"]:
    """Yield the store of `root`, and turn its errors into OSError with the URI."""
    try:
        from obstore.exceptions import BaseError
    except ImportError:
        raise OSError(f"{root}: reading an object store needs: pip install 'funnelrank[objects]'") from None
    try:
        yield _store(root)
    except (BaseError, OSError, ValueError) as error:
        raise OSError(f"{root}: {in_one_line(error)}") from None
