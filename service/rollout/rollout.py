"""Holds the rollout document: which versions are live, in one file of the registry that every worker follows.

`stable` answers all users except those of `canary`, who are `percent` of all users by a stable hash. `shadow` scores in
the background. A change names the fields to change: other fields keep their value, and null removes a field.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.bundle.registry import Target
from service.documents import MAX_REVISION, DocumentUnreadable, Recorded, RevisionedDocument
from service.errors import invalid
from service.files import Attempt, FileSignature

ROLLOUT_FILE = "rollout.json"
HISTORY_LENGTH = 50
AUTOMATIC = "automatic"
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class RolloutUnreadable(DocumentUnreadable):
    """The document is absent or cannot be followed."""


class Canary(Target):
    """A version that serves `percent` of the users."""

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


class RolloutState(BaseModel):
    """Which versions are live, and their limits. Fields of a newer program are kept if an older one rewrites them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    revision: Annotated[int, Field(ge=1, le=MAX_REVISION)]
    stable: Target
    canary: Canary | None = None
    shadow: Target | None = None
    limits: Limits = Limits()


class Rollout(Recorded, RolloutState):
    """The rollout document."""

    def past(self) -> list[Past]:
        """The history, newest first. Raises ValidationError for an unreadable entry."""
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
    """Read the present document. Raises RolloutUnreadable, also if there is none."""
    return _required(registry, DOCUMENT.read(registry))


def read_followed(registry: Path) -> Rollout:
    """Read the document or, if it is broken, the last good one.

    Raises RolloutUnreadable if neither can be read, or if no document exists.
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
    """Return the earlier stable versions that no rollback withdrew, newest first."""
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
    """Return a value that changes whenever the document is replaced; None if there is no document."""
    return DOCUMENT.signature(registry)


def write_rollout(registry: Path, stable: Target, author: str, expected_revision: int | None = None) -> Rollout:
    """Make `stable` live and keep the rest of the document. Raises what `change_rollout` raises."""
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
    """Change those of `stable`, `canary`, `shadow` and `limits` that are given.

    `withdraws` marks the replaced versions, so that a rollback skips them. `check` gets the new document and raises if
    it must not be written. Raises Conflict if the document is no longer at `expected_revision`, InvalidRequest if no
    stable version is given or known, OSError if the document cannot be written.
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
    """Restore the previous state, or that of revision `to`.

    Raises NothingEarlier (a Conflict) if there is no earlier state; otherwise what `change_rollout` raises.
    """
    return DOCUMENT.roll_back(
        registry, author, reason=reason, to=to, expected_revision=expected_revision, check=check, attempt=attempt
    )


def same_version(one: Target, other: Target) -> bool:
    """Return whether two entries name the same version; for a canary, only its version is compared."""
    return str(one) == str(other)


def _changed(before: Rollout | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content after the changes. A version that becomes stable stops being canary and shadow."""
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
