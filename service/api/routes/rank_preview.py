"""Answers `POST /rank/preview`: a ranking by a chosen version, profile and rules, neither counted nor logged."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from service.api.access.operators import Operator
from service.api.body import JsonBody
from service.api.context import CONTEXT
from service.api.openapi import BODY, OPERATOR, WORK, refuses
from service.api.routes.answer import answer
from service.api.routes.rank import query_of
from service.api.routes.rank_bodies import RankRequest, RankResponse
from service.api.services import Worker
from service.errors import DeadlineExceeded, UnknownModel
from service.ranking.deadline import Deadline
from service.ranking.query import DocumentChoice
from service.rollout.serving import Live, ServingSnapshot

router = APIRouter(tags=["previews"], dependencies=[Operator])


class RankPreviewRequest(RankRequest):
    """A request to rank, with the version, the profile and the rules that answer it."""

    version: Annotated[
        str | None,
        Field(max_length=200, description="a loaded version, as `kuairand-mmoe/3`; by default the user's own"),
    ] = None
    profile: Annotated[
        str | None,
        Field(max_length=200, description="a profile of the fusion document; by default the scene's and the user's"),
    ] = None
    rules: Annotated[
        str | None,
        Field(
            max_length=200,
            description="a list of the rules document, empty for no rules; by default the scene's and the user's",
        ),
    ] = None


@router.post(
    "/rank/preview",
    summary="Rank with a loaded version, a profile and rules of one's choice",
    response_model=RankResponse,
    responses=refuses(*BODY, *OPERATOR, *WORK, UnknownModel, DeadlineExceeded),
)
async def preview(
    # The console asks for two rankings at once, to show one beside the other.
    body: Annotated[RankPreviewRequest, Depends(JsonBody(RankPreviewRequest, threaded=True, alone=True, waiting=4))],
    worker: Worker,
    request: Request,
) -> Response:
    """Ranks as `POST /rank` does, with stable, canary, shadow or first pass, whichever the user has, and with any
    profile and any list of rules, also those that no scene uses.

    It does not count as traffic: no counter of rankings, gate, canary or exposure log sees it.
    """
    context = request.scope[CONTEXT]
    if body.request_id:
        context.request_id = body.request_id
    query, _ = query_of(body, worker.settings)
    query.options.choice = DocumentChoice(body.profile, body.rules)
    deadline = Deadline(body.timeout_ms or worker.settings.default_timeout_ms, context.started)
    with worker.rankings.enter():
        live = None if body.version is None else _loaded(worker.follower.snapshot, body.version, body.scene)
        ranking = await worker.ranker.preview(query, deadline, live)
    return Response(answer(ranking, context.request_id), media_type="application/json")


def _loaded(snapshot: ServingSnapshot, label: str, scene: str | None) -> Live:
    """Return a version by its `name/version`, in its role in the scene's line if it has one there.

    Raises UnknownModel if it is not loaded.
    """
    loaded = {live.bundle.label: live for live in (*snapshot.versions(), *snapshot.line_of(scene).loaded())}
    if label not in loaded:
        raise UnknownModel(f"{label} is not loaded; loaded are {', '.join(loaded)}")
    return loaded[label]
