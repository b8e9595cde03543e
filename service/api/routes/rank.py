"""Answers `POST /rank`. Requests bypass FastAPI, which only documents the route."""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Annotated, NamedTuple

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from service.api.body import JsonBody, may_repeat_keys, parse, read_body, refuse_repeated_keys
from service.api.context import CONTEXT, RequestContext
from service.api.openapi import BODY, WORK, refuses
from service.api.routes.answer import answer
from service.api.routes.rank_bodies import Candidate, RankedBehaviour, RankRequest, RankResponse
from service.api.services import Services
from service.api.traces import note_ranking
from service.errors import DeadlineExceeded, InvalidRequest, invalid
from service.ranking.admission import Entered
from service.ranking.deadline import Deadline
from service.ranking.query import InlineBehaviour, InlineUser, Query, RankingOptions
from service.settings import Settings


class RankRoute(APIRoute):
    """The route in FastAPI's list; its `app` is the plain ASGI application below."""

    methods: set[str]

    def __init__(self, services: Services) -> None:
        super().__init__(
            "/rank",
            _documented,
            methods=["POST"],
            tags=["rank"],
            operation_id="rank",
            summary="Rank candidates for a user",
            response_model=RankResponse,
            responses=refuses(*BODY, *WORK, DeadlineExceeded),
        )
        self.app = RankApplication(services)


async def _documented(_: Annotated[RankRequest, Depends(JsonBody(RankRequest))]) -> None:
    """Ranks the candidates. For an unknown user or item default values are used; `degraded` says what was missing."""


class RankApplication:
    """`POST /rank` as a plain ASGI application."""

    def __init__(self, services: Services) -> None:
        self.ranker = services.ranker
        self.settings = services.settings
        self.admission = services.rankings
        self.exposures = services.log.exposures if services.log else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: RequestContext = scope[CONTEXT]
        body = await read_body(context.content_length, receive, self.settings.max_body_bytes)
        # Admission covers computing only, neither receiving the body nor sending the answer.
        with self.admission.enter() as entered:
            self.ranker.metrics.tallies.soon()
            written = await self._answer(body, context, has_left(receive), entered)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(written)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": written})

    async def _answer(
        self, body: bytes, context: RequestContext, has_left: Callable[[], bool], entered: Entered
    ) -> bytes:
        """Return the JSON of a ranking, made in the step of a brown-out for which the caller has time."""
        # Check the request.
        request = parse(RankRequest, body)
        if request.request_id:
            context.request_id = request.request_id
        query, keys = query_of(request, self.settings)
        if may_repeat_keys(body, keys):
            refuse_repeated_keys(body)
        deadline = Deadline(request.timeout_ms or self.settings.default_timeout_ms, context.started)
        # Rank.
        marks = context.marks
        step = entered.choose_step(deadline.remaining())
        ranking = await self.ranker.rank(query, deadline, has_left, step, marks)
        if marks is not None:
            note_ranking(marks, query, ranking)
        # Write the answer.
        started = perf_counter()
        written = answer(ranking, context.request_id)
        seconds = perf_counter() - started
        self.ranker.metrics.stages["respond"].observe(seconds)
        computation = ranking.computation
        entered.note(computation.seconds.computing + seconds, computation.seconds.fetching)
        # A late answer is of no use to the caller, and a 504 says why there is none.
        deadline.check("the answer was ready")
        if self.exposures is not None:
            self.exposures.ranked(context.request_id, query, ranking)
        if ranking.degraded:
            context.outcome = "degraded"
        return written


def has_left(receive: Receive) -> Callable[[], bool]:
    """Return whether the caller has closed the connection, without waiting.

    uvicorn's `receive` is a method of its request cycle, which knows this. Other servers do not tell; then the deadline
    alone ends the work.
    """
    exchange = getattr(receive, "__self__", None)
    return lambda: bool(getattr(exchange, "disconnected", False))


def query_of(request: RankRequest, settings: Settings) -> tuple[Query, int]:
    """Make the ranker's query from a request; also return the number of keys in its JSON.

    Raises InvalidRequest for faults that the JSON schema cannot express.
    """
    # Check the candidates.
    count = len(request.candidates)
    if count > settings.max_candidates:
        raise invalid(
            "candidates", f"{count} candidates, {settings.max_candidates} are allowed (FUNNELRANK_MAX_CANDIDATES)"
        )
    ids, own_features, sources, keys = candidates_of(request.candidates)
    if len(set(ids)) != count:
        raise _duplicates(ids)
    # Check the request's own weights.
    weights: Mapping[str, float] = {}
    if request.fusion is not None:
        if not settings.fusion_overrides:
            raise invalid("fusion", "weights in a request are not allowed (FUNNELRANK_FUSION_OVERRIDES)")
        weights = request.fusion.weights
        keys += 1 + len(weights)
    # Take the user over that the request brings along.
    inline_user = None
    if request.user_features is not None or request.behaviours is not None:
        inline_user, more_keys = _inline_user(request.user_features, request.behaviours)
        keys += more_keys
    # Build the query.
    options = RankingOptions(
        scene=request.scene,
        weights=weights,
        top_k=request.top_k,
        explain=request.explain,
        page=request.page,
        timestamp=request.timestamp,
    )
    query = Query(
        user_id=request.user_id,
        item_ids=ids,
        own_features=own_features,
        sources=sources,
        context=request.context,
        options=options,
        inline_user=inline_user,
    )
    return query, keys + len(request.model_fields_set) + len(request.context)


def _inline_user(
    features: Mapping[str, object] | None, behaviours: Sequence[RankedBehaviour] | None
) -> tuple[InlineUser, int]:
    """Return the user that a request brings along, and the number of keys in its JSON."""
    if behaviours is None:
        return InlineUser(features), len(features or ())
    keys = len(features or ()) + sum(len(behaviour.model_fields_set) for behaviour in behaviours)
    inline = [InlineBehaviour(b.item_id, b.action, b.scene, b.timestamp) for b in behaviours]
    return InlineUser(features, inline), keys


class CandidateColumns(NamedTuple):
    """Candidates by column: `features` has their own values by position, `keys` is the number of keys in their JSON."""

    ids: list[str]
    features: Mapping[int, Mapping[str, object]]
    sources: Sequence[str | None] | None
    keys: int


def candidates_of(candidates: list[str | Candidate]) -> CandidateColumns:
    """Return the candidates of a request by column."""
    # The usual case, which runs no Python code per candidate.
    if set(map(type, candidates)) == {str}:
        return CandidateColumns(candidates, {}, None, 0)  # type: ignore[arg-type]
    ids: list[str] = []
    features_by_place: dict[int, Mapping[str, object]] = {}
    sources: list[str | None] = [None] * len(candidates)
    keys = 0
    for place, candidate in enumerate(candidates):
        if isinstance(candidate, str):
            ids.append(candidate)
            continue
        ids.append(candidate.item_id)
        keys += 1
        features = candidate.features
        if features:
            features_by_place[place] = features
            keys += 1 + len(features)
        if candidate.source is not None:
            sources[place] = candidate.source
            keys += 1
    return CandidateColumns(ids, features_by_place, sources if any(sources) else None, keys)


def _duplicates(ids: list[str]) -> InvalidRequest:
    first: dict[str, int] = {}
    for place, item_id in enumerate(ids):
        if first.setdefault(item_id, place) != place:
            return invalid(
                f"candidates[{place}]", f"the item is candidates[{first[item_id]}] already; ids must be unique"
            )
    raise AssertionError("no id occurs twice")
