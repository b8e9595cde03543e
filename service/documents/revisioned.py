"""Reads and changes revisioned documents: files of the registry with history, rollback and one writer at a time."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from features.files.strict_json import parse_json
from features.files.writing import write_whole
from service.documents.fields import Edit, Recorded, revision_of, without_empty
from service.documents.parts import DocumentPart, Whole, newest_entries
from service.documents.storage import last_good, locked
from service.errors import Conflict, first_fault
from service.files import Attempt, FileSignature, file_signature, read_regular
from service.objects.copies import StoreVersion, replace_document

log = logging.getLogger("funnelrank.document")
_MOST_BYTES = 64 << 20
Document = TypeVar("Document", bound=Recorded)


class DocumentUnreadable(Exception):  # noqa: N818 - a state, not a mistake
    """A document that cannot be followed; the message names the file and the field."""


class NothingEarlier(Conflict):
    """The history has no earlier state to restore."""


def now() -> str:
    """The time as documents state it: ISO 8601, UTC, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class RevisionedDocument(Generic[Document]):
    """One document of a registry: how it is read, changed and rolled back.

    `state` names the fields that the history keeps and a rollback restores. `model` has these fields, any others, and
    `revision`. `initial` applies if there is no document. `unreadable` is the error for one that cannot be followed.
    `labels` are other fields that an entry of the history gets if they are set; of each value of the first of them the
    history keeps the newest entries, however many others there are.
    """

    file: str
    title: str
    model: type[Document]
    state: tuple[str, ...]
    history_length: int
    unreadable: type[Exception] = DocumentUnreadable
    initial: Document | None = None
    labels: tuple[str, ...] = ()

    def signature(self, registry: Path) -> FileSignature | None:
        """Return a value that changes whenever the document is replaced; None if there is no document."""
        return file_signature(registry / self.file)

    def read(self, registry: Path) -> Document | None:
        """Read the document; None if there is none. Raises `unreadable`."""
        return self._read(registry / self.file)

    def read_last_good(self, registry: Path) -> Document | None:
        """Read the document or, if it is broken, the last good one. Raises `unreadable` if neither can be read."""
        path = registry / self.file
        try:
            return self._read(path)
        except self.unreadable as error:
            document = self._read(last_good(path))
            if document is None:
                raise
            log.error("%s; the last good document is followed", error)
            return document

    def change(
        self,
        registry: Path,
        content_after: Callable[[Document | None], Mapping[str, Any]],
        edit: Edit,
        *,
        withdraws: DocumentPart | None = None,
        check: Callable[[Document], None] | None = None,
        attempt: Attempt | None = None,
    ) -> Document:
        """Write the next revision: the content that `content_after` makes of the present document.

        `withdraws` is a part whose present state rollbacks skip. `check` gets the new document before it is written and
        raises if it must not be written. Raises Conflict if the document is no longer at the expected revision, OSError
        if it cannot be written (the present document then stays), and whatever `content_after` and `check` raise.
        """

        def write(version: StoreVersion | None) -> Document:
            before = self._present(registry, version, edit.expected_revision)
            content = content_after(before)
            return self._write(registry, version, before, content, edit, withdraws, None, check, attempt)

        return locked(registry, self.file, write)

    def whole(self, state: BaseModel) -> Callable[[Document | None], dict[str, Any]]:
        """A `content_after` for `change`: the new content is that of `state`."""
        content = state.model_dump(mode="json", include=set(self.state))
        return lambda _before: content

    def roll_back(
        self,
        registry: Path,
        edit: Edit,
        *,
        to: int | None = None,
        part: DocumentPart | None = None,
        check: Callable[[Document], None] | None = None,
        attempt: Attempt | None = None,
    ) -> Document:
        """Write an earlier state of a part (of all fields of `state` if none is given) as a new revision: the previous
        one, or that of revision `to`.

        Raises Conflict if there is no such state; otherwise what `change` raises.
        """
        part = part or Whole(self.state)

        def write(version: StoreVersion | None) -> Document:
            before = self._present(registry, version, edit.expected_revision)
            past = self._earlier(before, to, part) if before is not None else None
            if before is None or past is None:
                at = "" if to is None else f" at revision {to}"
                raise NothingEarlier(f"the history has nothing{at} to go back to")
            restores = past.get("revision")
            reason = edit.reason or f"back from revision {revision_of(before)} to {restores}"
            content = part.restore(before.model_dump(mode="json"), past)
            with_reason = replace(edit, reason=reason)
            return self._write(registry, version, before, content, with_reason, part, restores, check, attempt)

        return locked(registry, self.file, write)

    def states(self, document: Document, part: DocumentPart | None = None) -> Iterator[dict[str, Any]]:
        """The present state of a part, then the earlier ones that no rollback withdrew, newest first; raw JSON."""
        part = part or Whole(self.state)
        yield part.state_of(document.model_dump(mode="json"))
        for past in document.history:
            if not part.is_withdrawn(past):
                yield part.state_of(past)

    def parsed(self, content: bytes, place: object) -> Document:
        """Return the document of these bytes. Raises `unreadable`, which names the place."""
        try:
            return self.model.model_validate(parse_json(content))
        except ValidationError as error:
            raise self.unreadable(f"{place}: {first_fault(error, self.model)}") from None
        except (ValueError, RecursionError) as error:
            raise self.unreadable(f"{place}: not JSON: {error}") from None

    def _read(self, path: Path) -> Document | None:
        try:
            content = read_regular(path, _MOST_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.unreadable(f"{path}: {error.strerror}") from None
        return self.parsed(content, path)

    def _present(self, registry: Path, version: StoreVersion | None, expected: int | None) -> Document | None:
        present: Document | None = None
        try:
            if version is None or version.etag is not None:
                present = self.read_last_good(registry)
        except self.unreadable as error:
            log.error("%s is begun anew: %s", self.title, error)
        if present is None:
            present = self.initial
        revision = revision_of(present) if present is not None else 0
        if expected is not None and expected != revision:
            raise Conflict(f"{self.title} is at revision {revision}, not {expected}")
        return present

    def _earlier(self, present: Document, to: int | None, part: DocumentPart) -> dict[str, Any] | None:
        state = without_empty(part.state_of(present.model_dump(mode="json")))
        for past in present.history:
            earlier = part.state_of(past)
            if not earlier:
                continue
            if past.get("revision") == to:
                return past
            if to is None and not part.is_withdrawn(past) and without_empty(earlier) != state:
                return past
        return None

    def _write(
        self,
        registry: Path,
        version: StoreVersion | None,
        before: Document | None,
        content: Mapping[str, Any],
        edit: Edit,
        withdraws: DocumentPart | None,
        restores: int | None,
        check: Callable[[Document], None] | None,
        attempt: Attempt | None,
    ) -> Document:
        fields: dict[str, Any] = {}
        history: tuple[dict[str, Any], ...] = ()
        if before is not None:
            # Fields of a newer program stay, and fields that the content does not name keep their value.
            fields = before.model_dump(mode="json")
            history = self._history_after(fields, withdraws)
            fields = {name: value for name, value in fields.items() if name not in self.state}
        revision = revision_of(before) + 1 if before is not None else 1
        fields |= {**content, "revision": revision, "author": edit.author, "reason": edit.reason, "written_at": now()}
        fields |= {"restores": restores, "history": history}
        try:
            document = self.model.model_validate(fields)
        except ValidationError as error:
            raise Conflict(f"{self.title} cannot be changed: {first_fault(error, self.model)}") from None

        # The check, or a caller who gave up, can still stop the change; after this only a disk error can.
        if check is not None:
            check(document)
        text = document.model_dump_json(indent=2).encode() + b"\n"
        if attempt is not None:
            attempt.begin_writing()
        path = registry / self.file
        replace_document(path, text, version)
        try:
            write_whole(last_good(path), text)
        except OSError as error:
            log.warning("the copy of %s could not be written: %s", path, error.strerror)
        return document

    def _history_after(self, before: Mapping[str, Any], withdraws: DocumentPart | None) -> tuple[dict[str, Any], ...]:
        newest = {"revision": before["revision"]} | Whole(self.state).state_of(before)
        newest |= {name: before.get(name, "") for name in ("author", "reason", "written_at")}
        newest |= {name: before[name] for name in self.labels if before.get(name) is not None}
        newest["withdrawn"] = False
        label = self.labels[0] if self.labels else None
        entries = newest_entries([newest, *before["history"]], self.history_length, label)
        if withdraws is None or not withdraws.state_of(before):
            return tuple(entries)
        same = without_empty(withdraws.state_of(before))
        return tuple(withdraws.withdraw(e) if without_empty(withdraws.state_of(e)) == same else e for e in entries)
