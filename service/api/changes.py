"""Holds what the routes that change a document share: revisions in If-Match and ETag, and the uptake by the workers."""

import asyncio
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from time import monotonic
from typing import Annotated, Any, Protocol

from fastapi import Depends, Header
from fastapi.responses import JSONResponse

from service.api.fields import ResponseBody
from service.api.services import Services
from service.documents import Edit, Recorded, revision_of
from service.errors import Conflict

_REVISION = re.compile(r'"?(?P<revision>[0-9]{1,18})"?')
_LOAD_SECONDS = 5.0
_LONGEST_SECONDS = 8.0
_LOOK_SECONDS = 0.02
Status = Mapping[str, Any]
JsonObject = dict[str, Any]


class UptakeState(StrEnum):
    """Whether the workers have taken up a change at the time of the answer."""

    SERVED = "served"
    REFUSED = "refused"
    PENDING = "accepted, not yet served"


class Uptake(ResponseBody):
    """The result of a change on this host: the answer waits, for a limited time, for the first worker to serve or
    refuse it.
    """

    state: UptakeState
    detail: str = ""


async def _expected_revision(
    if_match: Annotated[
        str | None, Header(description='a revision, as `"4"`: make the change only if the document is still at it')
    ] = None,
) -> int | None:
    """Return the revision in If-Match; `*` matches any. Raises Conflict if the header is not a revision."""
    if if_match is None or if_match.strip() == "*":
        return None
    tag = _REVISION.fullmatch(if_match.strip())
    if tag is None:
        raise Conflict("If-Match names no revision of this document; send it as ETag has it")
    return int(tag["revision"])


IfMatch = Annotated[int | None, Depends(_expected_revision)]


class EditRequest(Protocol):
    """What the bodies of all changes have."""

    @property
    def author(self) -> str: ...

    @property
    def reason(self) -> str: ...

    @property
    def revision(self) -> int | None: ...


def edit_of(body: EditRequest, if_match: int | None) -> Edit:
    """Return the edit that a request asks for. Raises Conflict if its header and its body expect other revisions."""
    revision = body.revision if if_match is None else if_match
    if body.revision is not None and body.revision != revision:
        raise Conflict(f"If-Match names revision {if_match}, the body {body.revision}")
    return Edit(body.author, body.reason, revision)


def entity_tag(revision: int) -> dict[str, str]:
    """The ETag header of a document."""
    return {"ETag": f'"{revision}"'}


async def uptake(worker: Services, serves: Callable[[Status], bool], targets: set[str], written_at: str) -> Uptake:
    """Wait until a worker `serves` a change, or until one has refused one of its `targets` after `written_at`."""
    settings = worker.settings
    # The workers look at the documents once per poll, and then load what is new.
    until = monotonic() + min(_LOAD_SECONDS + 2 * settings.rollout_poll_ms / 1000, _LONGEST_SECONDS)
    while True:
        statuses = await asyncio.to_thread(worker.metrics.records.statuses)
        for status in (worker.follower.described(), *statuses):
            if serves(status):
                return Uptake(state=UptakeState.SERVED)
            # Older refusals belong to other changes.
            for refusal in status["refused"]:
                if refusal["model"] in targets and refusal["at"] >= written_at:
                    return Uptake(state=UptakeState.REFUSED, detail=f"{refusal['code']}: {refusal['detail']}")
        if monotonic() > until:
            return Uptake(state=UptakeState.PENDING, detail="GET /models shows what each worker serves with")
        await asyncio.sleep(_LOOK_SECONDS)


async def changed_document(
    worker: Services, file: str, document: Recorded, shown: Callable[[], JsonObject]
) -> JSONResponse:
    """Answer a change of the fusion or rules document, after the first worker serves or refused it."""
    revision = revision_of(document)
    field = f"{file.removesuffix('.json')}_revision"

    def serves(status: Status) -> bool:
        return bool(status[field] >= revision)

    served = await uptake(worker, serves, {file}, document.written_at)
    return await document_response(revision, lambda: shown() | {"served": served.model_dump(mode="json")})


async def document_response(revision: int, shown: Callable[[], JsonObject]) -> JSONResponse:
    """Return a document as a response.

    FastAPI would check it against the model and parse every formula again. A large document is written in a thread.
    """
    return await asyncio.to_thread(lambda: JSONResponse(shown(), headers=entity_tag(revision)))
