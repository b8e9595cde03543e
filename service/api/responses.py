"""Owns the JSON of what is answered beside a ranking, as `/openapi.json` states it. The answers are built as plain dicts; the fuzzing of every
route holds them against these models.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.bundle.registry import Target
from service.fusion.document import FusionDocument
from service.rollout.gate import GateReport
from service.rollout.rollout import Rollout


class _Shown(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EventsAnswer(_Shown):
    """`new` counts the events that were not known already."""

    accepted: int
    new: int


class Written(_Shown):
    """How many users or items have a changed row."""

    written: int


class Alive(_Shown):
    status: Literal["ok"]


class ReadyCheck(_Shown):
    name: str
    ok: bool
    detail: str


class Readiness(_Shown):
    """Whether this worker takes traffic; with `?verbose` every check, also where one fails (503)."""

    status: Literal["ok", "failing"]
    checks: tuple[ReadyCheck, ...] = ()


class FusionShown(FusionDocument):
    """The profiles in force, with the live model's tasks. Author and history stand where `PUT /fusion` has written a document."""

    tasks: tuple[str, ...] = ()
    overrides_allowed: bool = False


class TaskShown(_Shown):
    name: str
    kind: Literal["probability", "value"]


class PublishedShown(Target):
    """A version in the registry: what its manifest says or, where it cannot be used, the problem."""

    problem: str | None = None
    created_at: str | None = None
    architecture: str | None = None
    tasks: tuple[TaskShown, ...] = ()
    fingerprint: str | None = None


class LiveShown(Target):
    role: Literal["stable", "canary", "shadow"]
    revision: int
    percent: Annotated[float | None, Field(description="of a canary")] = None


class RefusalShown(_Shown):
    """A version or a document that the worker would not take, and why."""

    model: str
    code: str
    detail: str
    at: str


class WorkerShown(_Shown):
    """What one worker process serves with."""

    pid: int
    live: LiveShown | None
    canary: LiveShown | None
    shadow: LiveShown | None
    fusion_revision: int
    refused: tuple[RefusalShown, ...]
    gate: dict[str, GateReport]


class ModelsShown(_Shown):
    """Published versions, the rollout document, this worker and all workers of the host."""

    published: tuple[PublishedShown, ...]
    rollout: Rollout | None
    worker: WorkerShown
    workers: tuple[WorkerShown, ...]
    problem: str | None = None
