"""Holds the rollout document: which versions are live, in one file of the registry that every worker follows.

`stable` answers all users except those of `canary`, who are `percent` of all users by a stable hash. `shadow` scores in
the background. `first_pass` is a small version that scores all candidates in the second step of a brown-out. These
fields at the top are the default line; `lines` holds further ones, and `scenes` says which scene uses which. A document
without further lines has neither field, so that services without lines read it as before.
"""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core.core_schema import ValidationInfo

from service.bundle.registry import Target
from service.documents import MAX_REVISION, DocumentUnreadable, Recorded, RevisionedDocument
from service.files import FileSignature

ROLLOUT_FILE = "rollout.json"
HISTORY_LENGTH = 50
AUTOMATIC = "automatic"
DEFAULT_LINE = "default"
MOST_LINES = 16  # beside the default line
MOST_SCENES = 1000
LineName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Scene = Annotated[str, Field(min_length=1, max_length=512)]
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


class Revised(BaseModel):
    """The number of a document's state. As the last base class, it puts the number at the beginning of the file."""

    revision: int


class LineVersions(BaseModel):
    """The versions of one line."""

    stable: Target
    canary: Canary | None = None
    shadow: Target | None = None
    first_pass: Target | None = None


class RolloutLine(LineVersions):
    """One line: the versions that serve its scenes, with their limits."""

    model_config = ConfigDict(extra="allow", frozen=True)

    first_pass: Target | None = Field(None, exclude_if=lambda target: target is None)
    limits: Limits = Limits()


class PastLine(LineVersions):
    """A line in an entry of the history."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    withdrawn: bool = False


class Past(LineVersions, Revised):
    """An entry of the history.

    `withdrawn`: a rollback of the default line left it, so a later rollback does not return to it. `line` is the line
    that the revision changed; None in a document without further lines.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    author: str = ""
    reason: str = ""
    written_at: str = ""
    withdrawn: bool = False
    line: str | None = None
    lines: dict[str, PastLine] = {}


class RolloutState(LineVersions, Revised):
    """Which versions are live, and their limits. Fields of a newer program stay if an older one rewrites them.

    `lines` are the lines beside the default one; `scenes` has the line of each scene that does not use the default one.
    `line` is the line that this revision changed.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    revision: Annotated[int, Field(ge=1, le=MAX_REVISION)]
    first_pass: Target | None = Field(None, exclude_if=lambda target: target is None)
    limits: Limits = Limits()
    lines: dict[LineName, RolloutLine] = Field({}, exclude_if=lambda lines: not lines, max_length=MOST_LINES)
    scenes: dict[Scene, LineName] = Field({}, exclude_if=lambda scenes: not scenes, max_length=MOST_SCENES)
    line: str | None = Field(None, exclude_if=lambda line: line is None)

    @field_validator("lines")
    @classmethod
    def _names_are_free(cls, lines: dict[str, RolloutLine]) -> dict[str, RolloutLine]:
        if DEFAULT_LINE in lines:
            raise ValueError(f"the line '{DEFAULT_LINE}' is stable, canary and shadow at the top of the document")
        return lines

    @field_validator("scenes")
    @classmethod
    def _lines_exist(cls, scenes: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        for scene, line in scenes.items():
            if line != DEFAULT_LINE and line not in info.data.get("lines", {}):
                raise ValueError(f"scene '{scene}' uses the line '{line}', which does not exist")
        return scenes


class Rollout(Recorded, RolloutState):
    """The rollout document. The entries of its history are those of `Past`."""


DOCUMENT = RevisionedDocument(
    file=ROLLOUT_FILE,
    title="the rollout document",
    model=Rollout,
    state=("stable", "canary", "shadow", "first_pass", "lines"),
    history_length=HISTORY_LENGTH,
    unreadable=RolloutUnreadable,
    labels=("line", "restores"),
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


def signature(registry: Path) -> FileSignature | None:
    """Return a value that changes whenever the document is replaced; None if there is no document."""
    return DOCUMENT.signature(registry)
