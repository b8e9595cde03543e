"""Answers `GET /callers`: who may call the service, with the last use of every key."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import AwareDatetime, Field

from service.api.access.operators import Operator
from service.api.fields import ResponseBody
from service.api.openapi import OPERATOR, refuses
from service.api.services import Worker
from service.callers.document import Caller, CallerRole
from service.errors import StoreUnavailable

router = APIRouter(tags=["callers"], dependencies=[Operator])


class KeyState(ResponseBody):
    """A key of a caller. `last_used` is null if it was not used, or if that cannot be read (`problem` says so)."""

    id: Annotated[str, Field(description="the begin of the key's hash")]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    last_used: AwareDatetime | None


class CallerState(ResponseBody):
    """A caller."""

    name: str
    role: CallerRole
    rate: Annotated[float | None, Field(description="requests per second over all workers of a host; null: no limit")]
    keys: tuple[KeyState, ...]


class CallersResponse(ResponseBody):
    """The callers document that this worker follows; revision 0: there is none, and everybody may rank."""

    revision: int
    callers: tuple[CallerState, ...]
    problem: str | None = None


@router.get("/callers", summary="Callers, their keys, and the last use of each", responses=refuses(*OPERATOR))
async def callers(worker: Worker) -> CallersResponse:
    """Return the document without the hashes. The last uses are those of all workers and hosts of one store."""
    document = worker.callers.document
    if document is None:
        return CallersResponse(revision=0, callers=(), problem=worker.callers.problem or None)
    problem = worker.callers.problem
    uses: dict[str, int] = {}
    try:
        uses = dict(await worker.callers.last_uses())
    except StoreUnavailable as error:
        problem = "; ".join(filter(None, (problem, error.detail)))
    return CallersResponse(
        revision=document.revision,
        callers=tuple(_state(caller, uses) for caller in document.callers),
        problem=problem or None,
    )


def _state(caller: Caller, uses: dict[str, int]) -> CallerState:
    keys = tuple(
        KeyState(id=key.id, created_at=key.created_at, expires_at=key.expires_at, last_used=_time(uses.get(key.id)))
        for key in caller.keys
    )
    return CallerState(name=caller.name, role=caller.role, rate=caller.rate, keys=keys)


def _time(time_ms: int | None) -> datetime | None:
    return None if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC)
