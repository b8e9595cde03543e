"""Holds the callers document: names, roles, rates and hashed keys, in one file of the registry that workers follow.

Without a document everybody may rank, and operators' calls need the admin token. The document has no history, because
a rollback would restore revoked keys.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from secrets import token_urlsafe
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from features.nearest import nearest
from service.documents import DocumentUnreadable, Edit, Recorded, RevisionedDocument
from service.documents.storage import last_good
from service.errors import Conflict, first_fault

CALLERS_FILE = "callers.json"
MOST_KEYS = 10  # per caller
_KEY_PREFIX = "fr_"
_KEY_BYTES = 32
_ID_CHARACTERS = 12
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class CallerRole(StrEnum):
    """What a caller may do. Each role includes those before it."""

    READ = "read"
    WRITE = "write"
    OPERATE = "operate"

    def includes(self, other: "CallerRole") -> bool:
        return _ORDER[self] >= _ORDER[other]


_ORDER = {role: place for place, role in enumerate(CallerRole)}


class CallerKey(BaseModel):
    """A key as the document holds it. Keys have 256 random bits, so that a fast hash cannot be searched."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None

    @property
    def id(self) -> str:
        """The public name of a key: the begin of its hash."""
        return self.sha256[:_ID_CHARACTERS]


class Caller(BaseModel):
    """A program with its keys. `rate` is the highest number of requests per second; None: no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=_NAME)]
    role: CallerRole
    rate: Annotated[float | None, Field(gt=0, le=1_000_000)] = None
    keys: Annotated[tuple[CallerKey, ...], Field(max_length=MOST_KEYS)] = ()


class CallersDocument(Recorded):
    """The document. An unknown field is refused, because a misspelt limit must not count as no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    revision: int
    callers: tuple[Caller, ...] = ()

    @model_validator(mode="after")
    def _is_unambiguous(self) -> Self:
        if len({caller.name for caller in self.callers}) < len(self.callers):
            raise ValueError("two callers have the same name")
        hashes = [key.sha256 for caller in self.callers for key in caller.keys]
        if len(set(hashes)) < len(hashes):
            raise ValueError("a key occurs twice")
        return self


DOCUMENT = RevisionedDocument(
    file=CALLERS_FILE, title="callers", model=CallersDocument, state=("callers",), history_length=0
)
_COPY = replace(DOCUMENT, file=last_good(Path(CALLERS_FILE)).name)


def read_followed_callers(registry: Path) -> tuple[CallersDocument | None, str]:
    """Return the document to follow and the problem with the file, empty if there is none.

    If the file is broken or missing, its copy is followed. No document and no problem: nobody has written one.
    """
    try:
        document = DOCUMENT.read(registry)
        if document is not None:
            return document, ""
        problem = f"{registry / CALLERS_FILE} is gone"
    except DocumentUnreadable as error:
        problem = str(error)
    try:
        copy = _COPY.read(registry)
    except DocumentUnreadable:
        return None, problem
    if copy is None and problem.endswith(" is gone"):
        return None, ""
    return copy, problem


def add_caller(registry: Path, name: str, role: CallerRole, rate: float | None, author: str) -> str:
    """Add a caller with one key and return the key, which is stored nowhere. Raises Conflict and OSError."""
    key = _new_key()

    def update(callers: dict[str, Caller]) -> None:
        if name in callers:
            raise Conflict(f"there is a caller {name} already; rotate makes a new key")
        try:
            callers[name] = Caller(name=name, role=role, rate=rate, keys=(_entry(key),))
        except ValidationError as error:
            raise Conflict(first_fault(error, Caller)) from None

    _change(registry, update, Edit(author, f"{name} added"))
    return key


def rotate_key(registry: Path, name: str, overlap: timedelta, author: str) -> str:
    """Make a new key for a caller and return it; the present ones expire after `overlap`. Raises Conflict, OSError."""
    key = _new_key()

    def update(callers: dict[str, Caller]) -> None:
        caller = _named(callers, name)
        now = _now()
        remaining = [_ending(old, now + overlap) for old in caller.keys if not _is_over(old, now)] if overlap else []
        if len(remaining) >= MOST_KEYS:
            raise Conflict(f"{name} has {len(remaining)} keys; revoke one first")
        callers[name] = caller.model_copy(update={"keys": (*remaining, _entry(key))})

    _change(registry, update, Edit(author, f"key of {name} rotated"))
    return key


def revoke(registry: Path, name: str, key_id: str | None, author: str) -> None:
    """Remove one key of a caller, or the caller with all keys. Raises Conflict and OSError."""

    def update(callers: dict[str, Caller]) -> None:
        caller = _named(callers, name)
        if key_id is None:
            del callers[name]
            return
        remaining = tuple(key for key in caller.keys if key.id != key_id)
        if len(remaining) == len(caller.keys):
            raise Conflict(f"{name} has no key {key_id}{nearest(key_id, [key.id for key in caller.keys])}")
        callers[name] = caller.model_copy(update={"keys": remaining})

    target = name if key_id is None else f"key {key_id} of {name}"
    _change(registry, update, Edit(author, f"{target} revoked"))


def hash_of(key: bytes) -> bytes:
    """Return the hash that identifies a key."""
    return sha256(key).digest()


def _change(registry: Path, update: Callable[[dict[str, Caller]], None], edit: Edit) -> None:
    def content_after(before: CallersDocument | None) -> Mapping[str, Any]:
        present = before or _copy(registry)  # workers follow the copy of a missing file
        callers = {caller.name: caller for caller in present.callers} if present else {}
        update(callers)
        return {"callers": [caller.model_dump(mode="json") for caller in callers.values()]}

    document = DOCUMENT.change(registry, content_after, edit)
    copy = _copy(registry)
    # A copy that could not be written, as on a full disk, would restore revoked keys.
    if copy is not None and copy != document and DOCUMENT.read(registry) == document:
        (registry / _COPY.file).unlink(missing_ok=True)


def _copy(registry: Path) -> CallersDocument | None:
    """The last good document; None if it cannot be read either."""
    try:
        return _COPY.read(registry)
    except DocumentUnreadable:
        return None


def _named(callers: dict[str, Caller], name: str) -> Caller:
    if name not in callers:
        raise Conflict(f"there is no caller {name}{nearest(name, callers)}")
    return callers[name]


def _new_key() -> str:
    return _KEY_PREFIX + token_urlsafe(_KEY_BYTES)


def _entry(key: str) -> CallerKey:
    return CallerKey(sha256=hash_of(key.encode()).hex(), created_at=_now())


def _ending(key: CallerKey, end: datetime) -> CallerKey:
    earlier = key.expires_at is not None and key.expires_at <= end
    return key if earlier else key.model_copy(update={"expires_at": end})


def _is_over(key: CallerKey, now: datetime) -> bool:
    return key.expires_at is not None and key.expires_at <= now


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
