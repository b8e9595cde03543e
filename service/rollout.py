"""Owns the rollout document: what is live, in one file of the registry, written atomically and read by every worker."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import Conflict
from service.registry import Target

ROLLOUT_FILE, LOCK_FILE = "rollout.json", ".rollout.lock"


class RolloutUnreadable(Exception):  # noqa: N818 - a state that is told, not a mistake
    """The document is absent or says nothing that can be followed."""


class Rollout(BaseModel):
    """The document. What a newer writer adds is kept when an older one rewrites it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    revision: Annotated[int, Field(ge=1)]
    stable: Target
    author: str = ""
    written_at: str = ""


def read_rollout(registry: Path) -> Rollout:
    """The document as it stands. Raises RolloutUnreadable."""
    path = registry / ROLLOUT_FILE
    try:
        return Rollout.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RolloutUnreadable(f"{path} does not exist; run: python -m service rollout NAME VERSION") from None
    except OSError as error:
        raise RolloutUnreadable(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise RolloutUnreadable(f"{path}: {'.'.join(map(str, first['loc'])) or 'the document'}: {first['msg']}") from None


def signature(registry: Path) -> tuple[int, int, int] | None:
    """Changes whenever the document was replaced; None where it is absent. Costs one stat."""
    try:
        stat = (registry / ROLLOUT_FILE).stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def write_rollout(registry: Path, stable: Target, author: str, expected_revision: int | None = None) -> Rollout:
    """Make `stable` live. Raises Conflict where the document is not at `expected_revision` any more, OSError where it cannot be written."""
    with _writer_lock(registry):
        try:
            before: Rollout | None = read_rollout(registry)
        except RolloutUnreadable:
            before = None
        revision = before.revision if before else 0
        if expected_revision is not None and expected_revision != revision:
            raise Conflict(f"the rollout document is at revision {revision}, not {expected_revision}")
        kept = before.model_extra or {} if before else {}
        written_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        document = Rollout(revision=revision + 1, stable=stable, author=author, written_at=written_at, **kept)
        _replace(registry / ROLLOUT_FILE, document.model_dump_json(indent=2).encode() + b"\n")
    return document


@contextmanager
def _writer_lock(registry: Path) -> Iterator[None]:
    with (registry / LOCK_FILE).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _replace(path: Path, content: bytes) -> None:
    """Readers see the old file or the new one, also after a power cut."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
