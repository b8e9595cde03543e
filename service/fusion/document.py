"""Owns the fusion document: the profiles that are live, in one file of the registry beside the rollout document, followed by every worker.

Where there is none, what the service was started with holds: the YAML file of the settings or the plain sum of all probabilities.
"""

import logging
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from service.documents import last_good, now, replace_document, writer_lock
from service.errors import Conflict
from service.fusion.profiles import Experiment, FusionError, FusionProfiles, Profile, first_fault

log = logging.getLogger("funnelrank.fusion")
FUSION_FILE = "fusion.json"
HISTORY_KEPT = 20


class PastFusion(BaseModel):
    """What held before. `withdrawn` is what somebody went back from, so that going back does not lead there again."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    revision: int
    profiles: dict[str, Profile]
    scenes: dict[str, str] = {}
    experiments: dict[str, Experiment] = {}
    author: str = ""
    reason: str = ""
    written_at: str = ""
    withdrawn: bool = False

    def content(self) -> dict[str, Any]:
        return {"profiles": self.profiles, "scenes": self.scenes, "experiments": self.experiments}


class FusionDocument(FusionProfiles):
    """The document: profiles, scenes and experiments, who wrote them, and what held before."""

    author: str = ""
    reason: str = ""
    written_at: str = ""
    restores: int | None = None
    history: tuple[PastFusion, ...] = ()


def read_fusion(registry: Path) -> FusionDocument | None:
    """The document, None where there is none. Raises FusionError."""
    path = registry / FUSION_FILE
    return _read(path) if path.exists() else None


def read_followed_fusion(registry: Path) -> FusionDocument | None:
    """The document or, where it is broken, the last good one. Raises FusionError where there is no such."""
    try:
        return read_fusion(registry)
    except FusionError as error:
        copy = last_good(registry / FUSION_FILE)
        if not copy.exists():
            raise
        log.error("%s; the last good document is followed", error)
        return _read(copy)


def _read(path: Path) -> FusionDocument:
    try:
        return FusionDocument.model_validate_json(path.read_bytes())
    except OSError as error:
        raise FusionError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        raise FusionError(f"{path}: {first_fault(error)}") from None


def write_fusion(
    registry: Path,
    wanted: FusionProfiles,
    started_with: FusionProfiles,
    author: str,
    *,
    reason: str = "",
    expected_revision: int | None = None,
) -> FusionDocument:
    """Make `wanted` live. `started_with` is what held where there was no document. Raises Conflict, OSError."""
    with writer_lock(registry):
        before = _before(registry, started_with, expected_revision)
        content = {"profiles": wanted.profiles, "scenes": wanted.scenes, "experiments": wanted.experiments}
        return _write(registry, before, content, author, reason)


def earlier_fusion(registry: Path, to: int | None) -> PastFusion:
    """What a rollback would go back to. Raises Conflict where there is nothing."""
    document = read_followed_fusion(registry)
    if document is not None:
        present = PastFusion(**document.model_dump())
        for past in document.history:
            if past.revision == to or (to is None and not past.withdrawn and past.content() != present.content()):
                return past
    raise Conflict(f"the history has nothing{'' if to is None else f' at revision {to}'} to go back to")


def roll_back_fusion(
    registry: Path, author: str, *, reason: str = "", to: int | None = None, expected_revision: int | None = None
) -> FusionDocument:
    """Make live again what held before, or at revision `to`. Raises Conflict, OSError."""
    with writer_lock(registry):
        found = earlier_fusion(registry, to)
        before = _before(registry, FusionProfiles(profiles=found.profiles), expected_revision)
        told = reason or f"back from revision {before.revision} to {found.revision}"
        return _write(registry, before, found.content(), author, told, withdrawn=True, restores=found.revision)


def _before(registry: Path, started_with: FusionProfiles, expected_revision: int | None) -> FusionDocument:
    try:
        before = read_followed_fusion(registry)
    except FusionError as error:
        log.error("a new fusion document is begun: %s", error)
        before = None
    if before is None:
        before = FusionDocument(
            **started_with.model_dump(include={"revision", "profiles", "scenes", "experiments"}), author="start"
        )
    if expected_revision is not None and expected_revision != before.revision:
        raise Conflict(f"fusion is at revision {before.revision}, not {expected_revision}")
    return before


def _write(
    registry: Path,
    before: FusionDocument,
    content: dict[str, Any],
    author: str,
    reason: str,
    *,
    withdrawn: bool = False,
    restores: int | None = None,
) -> FusionDocument:
    present = PastFusion(**before.model_dump())
    past = (present, *before.history)[:HISTORY_KEPT]
    history = tuple(
        p.model_copy(update={"withdrawn": True}) if withdrawn and p.content() == present.content() else p for p in past
    )
    document = FusionDocument(
        revision=before.revision + 1,
        **content,
        author=author,
        reason=reason,
        written_at=now(),
        restores=restores,
        history=history,
    )
    replace_document(registry / FUSION_FILE, document.model_dump_json(indent=2).encode() + b"\n")
    return document
