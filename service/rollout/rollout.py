"""Holds the rollout document: which versions are live, in one file of the registry that every worker follows.

`stable` answers everybody but the users of `canary`, who are `percent` of all users by a stable hash; `shadow` scores
in the background. A change names what it changes: what it does not name keeps its value, null removes it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.bundle.registry import Target
from service.documents import MAX_REVISION, DocumentUnreadable, RevisionedDocument
from service.errors import invalid
from service.files import Attempt, FileSignature

ROLLOUT_FILE = "rollout.json"
HISTORY_LENGTH = 50
AUTOMATIC = "automatic"
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class RolloutUnreadable(DocumentUnreadable):
    """The document is absent or cannot be followed."""


class Canary(Target):
    """A version that `percent` of the users get."""

    percent: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class Limits(BaseModel):
    """Limits for a version before it takes traffic, and for a canary while it has traffic. Null lifts a limit.

    `psi`: population stability index of a task's scores against the stable version's (1.0: the mean moved by a
    standard deviation). `latency_ratio`: its time over the stable version's. `error_rate`: share of rankings that
    failed, beyond the stable version's share. Nothing is decided on fewer than `min_scores` scores or, for latency and
    errors of a canary, `min_requests` requests. `shadow_share`: the part of one core that a worker may spend on the
    shadow.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    psi: Positive | None = 1.0
    latency_ratio: Positive | None = 3.0
    error_rate: Annotated[float, Field(ge=0, le=1)] | None = 0.02
    min_scores: Annotated[int, Field(ge=100, le=100_000)] = 1000
    min_requests: Annotated[int, Field(ge=10, le=2000)] = 100
    shadow_share: Annotated[float, Field(gt=0, le=1)] = 0.25


class Past(BaseModel):
    """An entry of the history.

    `withdrawn`: a rollback left it, so a later rollback does not return to it.
    """

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
    """The document.

    What a newer writer adds is kept when an older one rewrites it. `restores` is the revision that a rollback went
    back to.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    revision: Annotated[int, Field(ge=1, le=MAX_REVISION)]
    stable: Target
    canary: Canary | None = None
    shadow: Target | None = None
    limits: Limits = Limits()
    author: str = ""
    reason: str = ""
    written_at: str = ""
    restores: int | None = None
    history: tuple[dict[str, Any], ...] = ()

    def past(self) -> list[Past]:
        """The history, newest first. Raises ValidationError for an entry that says nothing."""
        return [Past.model_validate(entry) for entry in self.history]


DOCUMENT = RevisionedDocument(
    file=ROLLOUT_FILE,
    title="the rollout document",
    model=Rollout,
    state=("stable", "canary", "shadow"),
    history_length=HISTORY_LENGTH,
    unreadable=RolloutUnreadable,
)


def read_rollout(registry: Path) -> Rollout:
    """The present document. Raises RolloutUnreadable, also if there is none."""
    return _required(registry, DOCUMENT.read(registry))


def read_followed(registry: Path) -> Rollout:
    """The document or, if it is broken, the last good one.

    Raises RolloutUnreadable if there is neither, or no document at all.
    """
    return _required(registry, DOCUMENT.read_last_good(registry))


def absent(registry: Path) -> RolloutUnreadable:
    """The error for a registry without a document."""
    path = registry / ROLLOUT_FILE
    return RolloutUnreadable(f"{path} does not exist; run: python -m service rollout NAME VERSION")


def _required(registry: Path, document: Rollout | None) -> Rollout:
    if document is None:
        raise absent(registry)
    return document


def earlier_stable(rollout: Rollout) -> list[Target]:
    """The stable versions of the history that no rollback withdrew, newest first, without the present one."""
    targets: dict[str, Target] = {}
    for state in DOCUMENT.states(rollout):
        try:
            target = Target.model_validate(state.get("stable"))
        except ValidationError:  # an entry that some other program wrote
            continue
        targets.setdefault(str(target), target)
    targets.pop(str(rollout.stable), None)
    return list(targets.values())


def signature(registry: Path) -> FileSignature | None:
    """Changes whenever the document was replaced; None if it is absent."""
    return DOCUMENT.signature(registry)


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
    check: Callable[[Rollout], None] | None = None,
    attempt: Attempt | None = None,
) -> Rollout:
    """Change `stable`, `canary`, `shadow` and `limits`, whichever are named.

    `withdraws` marks what was live as something not to go back to. `check` sees the new document and raises where it
    must not be written. Raises Conflict if the document is not at `expected_revision` any more, InvalidRequest
    if no stable version is named nor known, OSError if it cannot be written.
    """

    def edit(before: Rollout | None) -> dict[str, Any]:
        return _changed(before, changes)

    return DOCUMENT.change(
        registry,
        edit,
        author,
        reason=reason,
        expected_revision=expected_revision,
        withdraws=withdraws,
        check=check,
        attempt=attempt,
    )


def roll_back(
    registry: Path,
    author: str,
    *,
    reason: str = "",
    to: int | None = None,
    expected_revision: int | None = None,
    check: Callable[[Rollout], None] | None = None,
    attempt: Attempt | None = None,
) -> Rollout:
    """Restore the state before the present one, or that of revision `to`.

    Raises NothingEarlier (a Conflict) if there is nothing to go back to; else as `change_rollout`.
    """
    return DOCUMENT.roll_back(
        registry, author, reason=reason, to=to, expected_revision=expected_revision, check=check, attempt=attempt
    )


def same_version(one: Target, other: Target) -> bool:
    """Whether two entries name the same version; a canary is compared by its version alone."""
    return str(one) == str(other)


def _changed(before: Rollout | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The content after the changes. A version that became stable is canary and shadow no more."""
    stable = changes.get("stable") or (before.stable if before else None)
    if stable is None:
        raise invalid("stable", "there is no rollout document yet, so a stable version is needed")
    canary = changes.get("canary", before.canary if before else None)
    shadow = changes.get("shadow", before.shadow if before else None)
    limits = before.limits if before else Limits()
    changed_limits: Limits | None = changes.get("limits")
    if changed_limits is not None:
        limits = Limits(**limits.model_dump() | changed_limits.model_dump(exclude_unset=True))
    return {
        "stable": stable,
        "canary": None if canary is None or same_version(canary, stable) else canary,
        "shadow": None if shadow is None or same_version(shadow, stable) else shadow,
        "limits": limits,
    }
