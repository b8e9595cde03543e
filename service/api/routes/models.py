"""Answers `GET /models`: the published versions, the workers' versions, the rollout document."""

import asyncio
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import Field

from service.api.fields import ResponseBody
from service.api.services import Worker
from service.bundle.registry import Target, published
from service.files import run_limited
from service.rollout.rollout import Rollout, RolloutUnreadable, read_rollout
from service.rollout.trials.gate import GateReport
from service.settings import Settings

router = APIRouter(tags=["models"])
_READ_SECONDS = 5.0


class PublishedTask(ResponseBody):
    """A task of a published version."""

    name: str
    kind: str


class PublishedModel(Target):
    """A version in the registry: its manifest's main fields or, if it cannot be used, the problem."""

    problem: str | None = None
    created_at: str | None = None
    architecture: str | None = None
    tasks: tuple[PublishedTask, ...] = ()
    fingerprint: str | None = None


class LoadedModel(Target):
    """A version that a worker has loaded, in its role."""

    role: Literal["stable", "canary", "shadow", "first_pass"]
    revision: int
    percent: Annotated[float | None, Field(description="of a canary")] = None


class RefusedModel(ResponseBody):
    """A version or a document that the worker refused, and why."""

    model: str
    code: str
    detail: str
    at: str


class LoadedVersion(Target):
    """A version that a worker has in memory, once for all lines and roles, with the size of its graph."""

    graph_bytes: int


class LineState(ResponseBody):
    """The versions that a worker serves one line with."""

    live: LoadedModel | None
    canary: LoadedModel | None
    shadow: LoadedModel | None
    first_pass: LoadedModel | None


class WorkerState(ResponseBody):
    """The versions that one worker process serves: `live`, `canary` and `shadow` are the default line's."""

    pid: int
    live: LoadedModel | None
    canary: LoadedModel | None
    shadow: LoadedModel | None
    first_pass: LoadedModel | None
    fusion_revision: int
    rules_revision: int
    loaded: tuple[LoadedVersion, ...] = ()
    lines: dict[str, LineState] = Field({}, description="by name, if there are several")
    refused: tuple[RefusedModel, ...]
    gate: dict[str, GateReport]


class ModelsResponse(ResponseBody):
    """Published versions, the rollout document, this worker and all workers of the host."""

    published: tuple[PublishedModel, ...]
    rollout: Rollout | None
    worker: WorkerState
    workers: tuple[WorkerState, ...]
    problem: str | None = None


@router.get(
    "/models",
    summary="Published versions, the rollout document, and what every worker serves with",
    response_model=ModelsResponse,
    response_model_exclude_unset=True,
)
async def models(worker: Worker) -> dict[str, Any]:
    """Return an overview of the registry and of this host's workers.

    If the registry cannot be read, the response says so instead of listing no versions.
    """
    overview: dict[str, Any] = {
        "published": [],
        "rollout": None,
        "worker": worker.follower.described(),
        "workers": await asyncio.to_thread(worker.metrics.records.statuses),
    }
    try:
        overview |= await run_limited(partial(_of_registry, worker.settings), _READ_SECONDS, "the registry")
    except OSError as error:
        overview["problem"] = f"the registry cannot be read: {error.strerror}"
    return overview


def _of_registry(settings: Settings) -> dict[str, Any]:
    """The published versions in the registry. Raises OSError."""
    entries = []
    listed = published(settings.registry, settings.trusted_keys)
    for version in listed.versions:
        entry: dict[str, Any] = {"name": version.target.name, "version": version.target.version}
        manifest = version.manifest
        if manifest is None:
            entry["problem"] = version.problem
        else:
            entry["created_at"] = manifest.created_at
            entry["architecture"] = manifest.architecture
            entry["tasks"] = [{"name": task.name, "kind": task.kind} for task in manifest.tasks]
            entry["fingerprint"] = manifest.fingerprint
        entries.append(entry)
    overview: dict[str, Any] = {"published": entries}
    problems = list(listed.problems)
    try:
        overview["rollout"] = read_rollout(settings.registry).model_dump(mode="json")
    except RolloutUnreadable as error:
        problems.append(str(error))
    if problems:
        overview["problem"] = "; ".join(problems)
    return overview
