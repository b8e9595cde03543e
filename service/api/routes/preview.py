"""Answers `POST /fusion/preview` and `POST /rules/preview`: what a document would change, without changing anything."""

import os
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import Field

from service.api.access.operators import Operator
from service.api.body import JsonBody
from service.api.fields import ResponseBody
from service.api.openapi import BODY, OPERATOR, WORK, refuses
from service.api.routes.fusion import FusionRequest
from service.api.routes.rules import RulesRequest
from service.api.services import Services, Worker
from service.errors import RegistryUnavailable
from service.rollout.previews import Preview
from service.rollout.trials.effects import Effect, TaskSums
from service.rollout.trials.rule_items import missing_items
from service.rules.definition.rule_sets import RuleSets

router = APIRouter(tags=["previews"], dependencies=[Operator])
_ERRORS = refuses(*BODY, *OPERATOR, *WORK, RegistryUnavailable)


class TaskEffect(ResponseBody):
    """The mean of one task's scores in the top ten of the compared requests, each over `n` items."""

    task: str
    before: float | None
    after: float | None
    n_before: int
    n_after: int


class VersionEffect(ResponseBody):
    """What changes for the requests of one version, over the `n` requests that were compared."""

    line: str
    role: Literal["stable", "canary"]
    name: str
    version: str
    n: int
    changed_share: Annotated[float | None, Field(description="mean share of the top ten's items that leave it")]
    moved_share: Annotated[float | None, Field(description="mean share of the top ten's places with another item")]
    unchanged_requests: int
    empty: Annotated[int, Field(description="compared requests that would get no item")]
    refused: Annotated[int, Field(description="requests of a scene that the document lacks; they are not compared")]
    tasks: tuple[TaskEffect, ...]


class PreviewResponse(ResponseBody):
    """The effect of a document on the newest requests of the worker `pid`.

    `warnings` are what the change would log, or show in its answer.
    """

    pid: int
    requests: Annotated[int, Field(description="requests that the worker has kept, of all lines")]
    candidates: int
    warnings: tuple[str, ...]
    versions: tuple[VersionEffect, ...]


@router.post("/fusion/preview", summary="What other fusion profiles would change", responses=_ERRORS)
async def fusion(
    body: Annotated[FusionRequest, Depends(JsonBody(FusionRequest, max_keys=20_000, threaded=True, alone=True))],
    worker: Worker,
) -> PreviewResponse:
    """Checks a fusion document as `PUT /fusion` does, and ranks recent requests with it. Nothing is changed."""
    return _answer(worker, await worker.previews.of_fusion(body))


@router.post("/rules/preview", summary="What other rules would change", responses=_ERRORS)
async def rules(
    body: Annotated[RulesRequest, Depends(JsonBody(RulesRequest, max_keys=100_000, threaded=True, alone=True))],
    worker: Worker,
) -> PreviewResponse:
    """Checks a rules document as `PUT /rules` does, and ranks recent requests with it. Nothing is changed.

    Rules of the types `seen` and `cap` are applied as to users who have seen nothing.
    """
    return _answer(worker, await worker.previews.of_rules(body, partial(_missing_items, worker)))


def _missing_items(worker: Services, rule_sets: RuleSets) -> list[str]:
    fingerprints = [live.bundle.layouts.fingerprint for live in worker.follower.snapshot.versions()]
    return list(missing_items(rule_sets, fingerprints, worker.settings.redis_url.get_secret_value()))


def _answer(worker: Services, preview: Preview) -> PreviewResponse:
    requests, candidates = worker.previews.recent.size()
    return PreviewResponse(
        pid=os.getpid(),
        requests=requests,
        candidates=candidates,
        warnings=tuple(preview.warnings),
        versions=tuple(map(_version, preview.effects)),
    )


def _version(effect: Effect) -> VersionEffect:
    target = effect.live.target
    requests = effect.requests
    return VersionEffect(
        line=effect.line,
        role="canary" if effect.live.role == "canary" else "stable",
        name=target.name,
        version=target.version,
        n=requests.n,
        changed_share=_mean(effect.changed, requests.n),
        moved_share=_mean(effect.moved, requests.n),
        unchanged_requests=requests.unchanged,
        empty=requests.empty,
        refused=requests.refused,
        tasks=tuple(_task(name, sums) for name, sums in effect.tasks.items()),
    )


def _task(name: str, sums: TaskSums) -> TaskEffect:
    return TaskEffect(
        task=name,
        before=_mean(sums.before, sums.n_before),
        after=_mean(sums.after, sums.n_after),
        n_before=sums.n_before,
        n_after=sums.n_after,
    )


def _mean(total: float, n: int) -> float | None:
    return total / n if n else None
