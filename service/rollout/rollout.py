"""Owns the rollout document: what is live, in one file of the registry, written atomically and read by every worker.

`stable` answers everybody but the users of `canary`, who are `percent` of all users by a stable hash; `shadow` scores in the background.
A change names what it changes: what it does not name keeps its value, null removes it.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.bundle.registry import Target
from service.documents import Signature, last_good, now, replace_document, writer_lock
from service.documents import signature as signature_of
from service.errors import Conflict, invalid

log = logging.getLogger("funnelrank.rollout")
ROLLOUT_FILE = "rollout.json"
HISTORY_KEPT = 50
AUTOMATIC = "automatic"
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class RolloutUnreadable(Exception):  # noqa: N818 - a state that is told, not a mistake
    """The document is absent or says nothing that can be followed."""


class Canary(Target):
    """A version that `percent` of the users get."""

    percent: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class Limits(BaseModel):
    """What a version must keep to before it takes traffic, and a canary while it has some. Null lifts a limit.

    `psi`: population stability index of a task's scores against the stable version's (1.0: the mean moved by a standard deviation).
    `latency_ratio`: its time over the stable version's. `error_rate`: share of rankings that failed, beyond the stable version's share.
    Nothing is judged on fewer than `min_scores` scores or, for latency and errors of a canary, `min_requests` requests.
    `shadow_share`: the part of one core that a worker may spend on the shadow.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    psi: Positive | None = 1.0
    latency_ratio: Positive | None = 3.0
    error_rate: Annotated[float, Field(ge=0, le=1)] | None = 0.02
    min_scores: Annotated[int, Field(ge=100, le=100_000)] = 1000
    min_requests: Annotated[int, Field(ge=10, le=2000)] = 100
    shadow_share: Annotated[float, Field(gt=0, le=1)] = 0.25


class Past(BaseModel):
    """What was live before. `withdrawn` is what somebody went back from, so that going back does not lead there again."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    revision: int
    stable: Target
    canary: Canary | None = None
    shadow: Target | None = None
    author: str = ""
    reason: str = ""
    written_at: str = ""
    withdrawn: bool = False


class Rollout(BaseModel):
    """The document. What a newer writer adds is kept when an older one rewrites it. `restores` is the revision that a rollback went back to."""

    model_config = ConfigDict(extra="allow", frozen=True)

    revision: Annotated[int, Field(ge=1)]
    stable: Target
    canary: Canary | None = None
    shadow: Target | None = None
    limits: Limits = Limits()
    author: str = ""
    reason: str = ""
    written_at: str = ""
    restores: int | None = None
    history: tuple[Past, ...] = ()


def read_rollout(registry: Path) -> Rollout:
    """The document as it stands. Raises RolloutUnreadable."""
    return _read(registry / ROLLOUT_FILE)


def read_followed(registry: Path) -> Rollout:
    """The document or, where it is broken, the last good one. Raises RolloutUnreadable where there is neither, or no document at all."""
    path = registry / ROLLOUT_FILE
    try:
        return _read(path)
    except RolloutUnreadable as error:
        if not path.exists() or not last_good(path).exists():
            raise
        log.error("%s; the last good document is followed", error)
        return _read(last_good(path))


def _read(path: Path) -> Rollout:
    try:
        return Rollout.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RolloutUnreadable(f"{path} does not exist; run: python -m service rollout NAME VERSION") from None
    except OSError as error:
        raise RolloutUnreadable(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise RolloutUnreadable(
            f"{path}: {'.'.join(map(str, first['loc'])) or 'the document'}: {first['msg']}"
        ) from None


def signature(registry: Path) -> Signature | None:
    """Changes whenever the document was replaced; None where it is absent."""
    return signature_of(registry / ROLLOUT_FILE)


def write_rollout(registry: Path, stable: Target, author: str, expected_revision: int | None = None) -> Rollout:
    """Make `stable` live and leave the rest as it is. Raises as `change_rollout`."""
    return change_rollout(registry, {"stable": stable}, author, expected_revision=expected_revision)


def change_rollout(
    registry: Path,
    changes: Mapping[str, Any],
    author: str,
    *,
    reason: str = "",
    expected_revision: int | None = None,
    withdraws: bool = False,
) -> Rollout:
    """Change `stable`, `canary`, `shadow` and `limits`, whichever are named.

    `withdraws` marks what was live as something not to go back to. Raises Conflict where the document is not at `expected_revision` any
    more, InvalidRequest where no stable version is named nor known, OSError where it cannot be written.
    """
    with writer_lock(registry):
        before = _before(registry, expected_revision)
        stable = changes.get("stable") or (before.stable if before else None)
        if stable is None:
            raise invalid("stable", "there is no rollout document yet, so a stable version is needed")
        canary = changes.get("canary", before.canary if before else None)
        shadow = changes.get("shadow", before.shadow if before else None)
        live = {
            "stable": stable,
            "canary": None if canary is None or same(canary, stable) else canary,
            "shadow": None if shadow is None or same(shadow, stable) else shadow,
        }
        return _write(registry, before, live, changes.get("limits"), author, reason, withdrawn=withdraws)


def roll_back(
    registry: Path, author: str, *, reason: str = "", to: int | None = None, expected_revision: int | None = None
) -> Rollout:
    """Make live again what was live before, or at revision `to`. Raises Conflict where there is nothing to go back to; as `change_rollout`."""
    with writer_lock(registry):
        before = _before(registry, expected_revision)
        found = _earlier(before, to) if before else None
        if before is None or found is None:
            wanted = "" if to is None else f" at revision {to}"
            raise Conflict(f"the history has nothing{wanted} to go back to")
        live = {"stable": found.stable, "canary": found.canary, "shadow": found.shadow}
        told = reason or f"back from revision {before.revision} to {found.revision}"
        return _write(registry, before, live, None, author, told, withdrawn=True, restores=found.revision)


def same(one: Target, other: Target) -> bool:
    """Whether two entries name the same version; a canary is compared by its version alone."""
    return str(one) == str(other)


def _before(registry: Path, expected_revision: int | None) -> Rollout | None:
    before: Rollout | None = None
    try:
        before = read_followed(registry)
    except RolloutUnreadable as error:
        log.info("a new rollout document is begun: %s", error)
    revision = before.revision if before else 0
    if expected_revision is not None and expected_revision != revision:
        raise Conflict(f"the rollout document is at revision {revision}, not {expected_revision}")
    return before


def _earlier(before: Rollout, to: int | None) -> Past | None:
    for past in before.history:
        if past.revision == to or (to is None and not past.withdrawn and _state(past) != _state(before)):
            return past
    return None


def _state(entry: Rollout | Past) -> tuple[Target, Canary | None, Target | None]:
    return entry.stable, entry.canary, entry.shadow


def _write(
    registry: Path,
    before: Rollout | None,
    live: Mapping[str, Any],
    limits: Limits | None,
    author: str,
    reason: str,
    *,
    withdrawn: bool = False,
    restores: int | None = None,
) -> Rollout:
    history: tuple[Past, ...] = ()
    kept: Mapping[str, Any] = {}
    merged = before.limits if before else Limits()
    if before is not None:
        past = (Past(**before.model_dump()), *before.history)[:HISTORY_KEPT]
        history = tuple(
            p.model_copy(update={"withdrawn": True}) if withdrawn and _state(p) == _state(before) else p for p in past
        )
        kept = before.model_extra or {}
    if limits is not None:
        merged = Limits(**merged.model_dump() | limits.model_dump(exclude_unset=True))
    document = Rollout(
        revision=(before.revision if before else 0) + 1,
        **live,
        limits=merged,
        author=author,
        reason=reason,
        written_at=now(),
        restores=restores,
        history=history,
        **kept,
    )
    replace_document(registry / ROLLOUT_FILE, document.model_dump_json(indent=2).encode() + b"\n")
    return document
