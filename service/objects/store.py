"""Reads and writes the objects of a registry, with conditions and for a limited time.

PREFIX/rollout.json, fusion.json, ...      the documents, replaced under the condition of their ETag
PREFIX/NAME/VERSION/manifest.json          put only if it is absent: with it, a version is published
PREFIX/NAME/VERSION/manifest.SHA256.sig    its signature, by the hash of the manifest
PREFIX/.files/SHA256                       the files of all bundles, by the hash of their content
"""

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotModifiedError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from features.files.object_errors import in_one_line
from service.addresses.registry_address import GOOGLE, store_address
from service.objects.answers import Look, ObjectStoreAway, ReplacedMeanwhile, StoredObject
from service.objects.lists import folder_names, manifest_tags
from service.objects.opening import open_objects

FILES: Final = ".files"
_ATTEMPTS = 5
_FIRST_PAUSE_SECONDS = 0.1
_PATIENCE_SECONDS = 10.0  # after which no further attempt begins
_QUICK = "5s"
_BULK = "60s"
_LARGEST_DOCUMENT = 64 << 20
_PART_BYTES = 8 << 20
_PIECE_BYTES = 32 << 20
_PARTS_AT_ONCE = 4
_PART_RETRIES = 4
# What a store says about the object, and not about its own state: another attempt would say the same. Any other error
# that a call has no use for, such as a conflict while it reads, is that of a store that is away.
_OF_READS = (FileNotFoundError, NotModifiedError)
_OF_CONDITIONAL_WRITES = (AlreadyExistsError, FileNotFoundError, PreconditionError)
# ValueError: a name that no object can have.
_REFUSALS = (
    FileNotFoundError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
    ValueError,
)
Answer = TypeVar("Answer")


class RegistryObjects:
    """The objects under one URI. A call on a document ends within 15 s."""

    def __init__(self, uri: str) -> None:
        """Raises CannotOpen."""
        self.uri = uri
        address = store_address(uri)
        # Google's conditions of writes name an object's generation, those of reads its ETag: a version has both.
        self._has_generations = address.scheme == GOOGLE
        # Repeated here and not by the client: after a lost answer, a conditional write has to look what is there. Of a
        # large file, the client repeats the part that failed.
        self._store: Any = open_objects(address, 0, _QUICK)
        self._bulk: Any = open_objects(address, _PART_RETRIES, _BULK)

    def look(self, name: str, known: str | None = None) -> Look:
        """Read a small object, unless it still has the ETag `known`. Raises ObjectStoreAway."""
        options: Any = {"if_none_match": self._condition(known)["e_tag"]} if known else None

        def read() -> StoredObject:
            result = obstore.get(self._store, name, options=options)
            meta = result.meta
            if meta["size"] > _LARGEST_DOCUMENT:
                raise ObjectStoreAway(f"{self.uri}/{name} has {meta['size']} bytes, {_LARGEST_DOCUMENT} are allowed")
            return StoredObject(bytes(result.bytes()), self._tag(meta))

        try:
            return Look(True, self._answered(name, read, _OF_READS))
        except NotModifiedError:
            return Look(False)
        except FileNotFoundError:
            return Look(True)

    def write(self, name: str, content: bytes, replaces: str | None) -> str:
        """Write an object in place of the one with the ETag `replaces`, or where there is none (None).

        Returns the new ETag. Raises ReplacedMeanwhile and ObjectStoreAway.
        """
        for attempt in range(_ATTEMPTS):
            if attempt:
                _pause(attempt)
            try:
                return self._write(name, content, replaces)
            except ReplacedMeanwhile:
                # S3 refuses (409) also beside a call that then fails or deletes; it says nothing about what is there.
                if replaces is not None or self.size_of(name) is not None:
                    raise
        raise ObjectStoreAway(f"{self._place(name)}: the store refuses to create it, and has none")

    def _write(self, name: str, content: bytes, replaces: str | None) -> str:
        mode: Any = "create" if replaces is None else self._condition(replaces)
        attempts = 0

        def put() -> Any:
            nonlocal attempts
            attempts += 1
            return obstore.put(self._store, name, content, mode=mode)

        try:
            return self._tag(self._answered(name, put, _OF_CONDITIONAL_WRITES))
        except FileNotFoundError as error:
            if replaces is None:  # there is no such bucket
                raise ObjectStoreAway(f"{self._place(name)}: {in_one_line(error)}") from None
            raise ReplacedMeanwhile(name) from None
        except (AlreadyExistsError, PreconditionError):
            present = self._own(name, content) if attempts > 1 else None
            if present is None:
                raise ReplacedMeanwhile(name) from None
            return present.etag
        except ObjectStoreAway as error:
            present = self._own(name, content)
            if present is None:
                raise error from None
            return present.etag

    def _own(self, name: str, content: bytes) -> StoredObject | None:
        """Return the object if an attempt whose answer was lost has written it. Raises ObjectStoreAway."""
        try:
            present = self.look(name).stored
        except ObjectStoreAway as error:
            raise ObjectStoreAway(f"{error.strerror}; it is unknown whether the object was written") from None
        return present if present is not None and present.content == content else None

    def put(self, name: str, content: bytes | Path) -> None:
        """Put an object, whatever is there. Raises ObjectStoreAway."""
        options: Any = {"chunk_size": _PART_BYTES, "max_concurrency": _PARTS_AT_ONCE}
        self._answered(name, lambda: obstore.put(self._bulk, name, content, **options))

    def put_file(self, path: Path, digest: str) -> None:
        """Put a file of a bundle under its hash, unless it is there. Raises ObjectStoreAway."""
        name = self.file_name(digest)
        if self.size_of(name) != path.stat().st_size:
            self.put(name, path)

    @staticmethod
    def file_name(digest: str) -> str:
        """The name of the object that is the file of a bundle with this SHA-256."""
        return f"{FILES}/{digest}"

    def size_of(self, name: str) -> int | None:
        """Return the bytes of an object, None if there is none. Raises ObjectStoreAway."""
        try:
            return int(self._answered(name, lambda: obstore.head(self._store, name), (FileNotFoundError,))["size"])
        except FileNotFoundError:
            return None

    def download(self, name: str, path: Path) -> bool:
        """Write an object to a file; return False if there is none. Raises ObjectStoreAway, and OSError of the disk.

        It is read in pieces, so that a lost connection costs one of them.
        """
        size = self.size_of(name)
        if size is None:
            return False
        with path.open("wb") as file:
            for start in range(0, size, _PIECE_BYTES):
                file.write(self._piece(name, start, min(size, start + _PIECE_BYTES)))
            file.flush()
            os.fsync(file.fileno())
        return True

    def _piece(self, name: str, start: int, end: int) -> Any:
        try:
            read = partial(obstore.get_range, self._bulk, name, start=start, end=end)
            return self._answered(name, read, (FileNotFoundError,))
        except FileNotFoundError:
            raise ObjectStoreAway(f"{self._place(name)} was removed while it was read") from None

    def folders(self, prefix: str = "") -> Sequence[str]:
        """Return the names of the folders directly below a prefix, sorted. Raises ObjectStoreAway."""
        return self._answered(prefix, lambda: folder_names(self._store, prefix))

    def manifests(self, name: str, file: str) -> Mapping[str, str]:
        """Return the folders below a folder, each with the plain ETag of its object `file`, "" if that is unknown.

        Raises ObjectStoreAway.
        """
        return self._answered(name, lambda: manifest_tags(self._store, name, file))

    def _answered(self, name: str, call: Callable[[], Answer], answers: tuple[type[Exception], ...] = ()) -> Answer:
        """Make a call until the store answers it: 429, 5xx and lost connections are tried again after a pause.

        Raises ObjectStoreAway, and the errors that are `answers`.
        """
        problem = ""
        end = time.monotonic() + _PATIENCE_SECONDS
        for attempt in range(_ATTEMPTS):
            if attempt and time.monotonic() > end:
                break
            if attempt:
                _pause(attempt)
            try:
                return call()
            except answers:
                raise
            except _REFUSALS as error:
                raise ObjectStoreAway(f"{self._place(name)}: {in_one_line(error)}") from None
            except BaseError as error:
                problem = in_one_line(error)
        raise ObjectStoreAway(f"{self._place(name)}: {problem}")

    def _tag(self, meta: Mapping[str, Any]) -> str:
        """The ETag of an object, and its generation behind it where conditions need it."""
        tag = str(meta["e_tag"] or "")
        return f"{tag} {meta['version']}" if self._has_generations else tag

    def _condition(self, tag: str) -> dict[str, str]:
        """The condition that an object is still the one of `tag`."""
        if not self._has_generations:
            return {"e_tag": tag}
        etag, _, generation = tag.rpartition(" ")
        return {"e_tag": etag, "version": generation}

    def _place(self, name: str) -> str:
        return f"{self.uri}/{name}".rstrip("/")


def _pause(attempt: int) -> None:
    """Wait longer before each attempt, and not as long as other machines, which failed at the same moment."""
    time.sleep(_FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.0))  # nosec B311
