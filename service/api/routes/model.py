"""Answers `GET /models/{name}/{version}`: one published version, with its places and what the workers say about it."""

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import Field

from service.api.fields import ResponseBody
from service.api.openapi import refuses
from service.api.routes.models import RefusedModel
from service.api.services import Services, Worker
from service.bundle.fetching import fetched_manifest
from service.bundle.manifest import BundleName, Version
from service.bundle.registry import Target, folder_of
from service.bundle.verify import BundleRejected, read_manifest
from service.errors import InvalidRequest, RegistryUnavailable, UnknownModel
from service.files import run_limited
from service.rollout.following.loader import report_name
from service.rollout.lines.view import lines_of, targets_of_line
from service.rollout.rollout import ROLLOUT_FILE, Rollout, RolloutUnreadable, read_rollout
from service.rollout.trials.gate import GateReport
from service.settings import Settings

router = APIRouter(tags=["models"])
_READ_SECONDS = 5.0


class ModelPlace(ResponseBody):
    """A role that the rollout document gives to the version; canaries have a percentage of the users."""

    line: str
    role: str
    percent: float | None


class GateOfLine(ResponseBody):
    """What the gate of one line measured before the version took traffic."""

    line: str
    report: GateReport


class ModelOnWorker(ResponseBody):
    """What one worker of this host says about the version."""

    pid: int
    loaded: bool
    gate: tuple[GateOfLine, ...]
    refused: tuple[RefusedModel, ...]


class ModelResponse(ResponseBody):
    """A published version: its manifest or, if that cannot be used, the problem."""

    name: str
    version: str
    problem: str | None
    manifest: Annotated[dict[str, Any] | None, Field(description="manifest.json, with parity, metrics and provenance")]
    places: tuple[ModelPlace, ...]
    workers: tuple[ModelOnWorker, ...]


@router.get(
    "/models/{name}/{version}",
    summary="One published version: manifest, parity, metrics, places, gate",
    responses=refuses(InvalidRequest, UnknownModel, RegistryUnavailable),
)
async def model(
    worker: Worker, name: Annotated[BundleName, Path()], version: Annotated[Version, Path()]
) -> ModelResponse:
    """Reads the registry and the records of this host's workers; loads nothing."""
    target = Target(name=name, version=version)
    try:
        described = await run_limited(partial(_of_registry, worker.settings, target), _READ_SECONDS, "the registry")
    except OSError as error:
        raise RegistryUnavailable(ROLLOUT_FILE, error) from error
    return ModelResponse(name=name, version=version, workers=await _workers(worker, target), **described)


def _of_registry(settings: Settings, target: Target) -> dict[str, Any]:
    """The manifest and places of a version. Raises UnknownModel and OSError."""
    folder = fetched_manifest(folder_of(settings.registry, target))
    if not folder.is_dir():
        raise UnknownModel(f"{target} is not published; GET /models lists what is")
    manifest = None
    problem = None
    try:
        read = read_manifest(folder, settings.trusted_keys)
        manifest = read.model_dump(mode="json")
    except BundleRejected as error:
        problem = str(error)
    try:
        places = _places(read_rollout(settings.registry), target)
    except RolloutUnreadable as error:
        places = ()
        problem = "; ".join(filter(None, (problem, str(error))))
    return {"manifest": manifest, "problem": problem, "places": places}


def _places(rollout: Rollout, target: Target) -> tuple[ModelPlace, ...]:
    return tuple(
        ModelPlace(line=name, role=role, percent=getattr(line.canary, "percent", None) if role == "canary" else None)
        for name, line in lines_of(rollout).items()
        for role, version in targets_of_line(line).items()
        if (version.name, version.version) == (target.name, target.version)
    )


async def _workers(worker: Services, target: Target) -> tuple[ModelOnWorker, ...]:
    statuses = await asyncio.to_thread(worker.metrics.records.statuses)
    # A single worker shares no records, and its own may be from before the last step.
    present = worker.follower.described()
    others = [status for status in statuses if status["pid"] != present["pid"]]
    lines = list(worker.follower.snapshot.lines)
    by_pid = sorted([present, *others], key=lambda status: int(status["pid"]))
    return tuple(_on_worker(status, target, lines) for status in by_pid)


def _on_worker(status: dict[str, Any], target: Target, lines: list[str]) -> ModelOnWorker:
    label = str(target)
    reports = {line: status["gate"].get(report_name(line, label)) for line in lines}
    return ModelOnWorker(
        pid=status["pid"],
        loaded=any((one["name"], one["version"]) == (target.name, target.version) for one in status["loaded"]),
        gate=tuple(GateOfLine(line=line, report=GateReport(**report)) for line, report in reports.items() if report),
        refused=tuple(RefusedModel(**refusal) for refusal in status["refused"] if refusal["model"] == label),
    )
