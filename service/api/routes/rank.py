"""Answers `POST /rank`. Requests bypass FastAPI, which only documents the route."""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Annotated, Any

from fastapi import Depends
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, FailFast, Field, Strict
from starlette.types import Receive, Scope, Send

from features.times import EARLIEST_MS, LATEST_MS
from service.api.body import JsonBody, may_repeat_keys, parse, read_body, refuse_repeated_keys
from service.api.fields import Features, Id, RequestBody, RequestId
from service.api.middleware import CONTEXT, RequestContext
from service.api.openapi import BODY, WORK, refuses
from service.api.routes.answer import answer
from service.api.services import Services
from service.errors import DeadlineExceeded, InvalidRequest, invalid
from service.fusion import Weights
from service.ranking.deadline import Deadline
from service.ranking.query import Query, RankingOptions
from service.settings import Settings

# The highest value of FUNNELRANK_MAX_CANDIDATES. Validation of a list stops at its first bad entry, so it stays fast.
MAX_LIST = 100_000


class Candidate(RequestBody):
    """A candidate with feature values, which replace the stored ones for this request."""

    item_id: Id
    features: Features = Field(default_factory=dict)


class FusionOverride(RequestBody):
    """Weights that replace the profile's weights for this request, if the operator allows it."""

    weights: Weights


class RankRequest(RequestBody):
    """A user and the candidates to rank for them."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "user_id": "712",
                "candidates": ["5239", {"item_id": "6831", "features": {"tag": "39"}}],
                "top_k": 50,
                "timeout_ms": 80,
            }
        }
    )

    user_id: Id
    candidates: Annotated[
        list[Annotated[Id | Candidate, Field(union_mode="left_to_right")]],
        Field(min_length=1, max_length=MAX_LIST),
        FailFast(),
    ]
    scene: Annotated[str | None, Field(description="picks the fusion profile")] = None
    context: Annotated[dict[str, Any], Field(default_factory=dict, description="raw values of the context features")]
    top_k: Annotated[
        int | None, Strict(), Field(ge=1, description="length of the ranking; by default all candidates")
    ] = None
    timeout_ms: Annotated[
        int | None, Strict(), Field(ge=1, le=600_000, description="deadline, counted from arrival")
    ] = None
    fusion: FusionOverride | None = None
    timestamp: Annotated[
        int | None,
        Strict(),
        Field(
            ge=EARLIEST_MS,
            le=LATEST_MS,
            description="time to rank as of, milliseconds since 1970: later behaviours do not count; default: now",
        ),
    ] = None
    explain: Annotated[bool, Strict(), Field(description="adds each task's weight and part of the score")] = False
    request_id: RequestId | None = None


class Prediction(BaseModel):
    """One ranked candidate. `score` or a prediction is null if the model did not give it."""

    item_id: str
    rank: int
    score: float | None
    predictions: dict[str, float | None]
    explain: Annotated[
        dict[str, dict[str, float | None]] | None,
        Field(description="task or numeric -> score or value, weight, part; only on request"),
    ] = None


class RankResponse(BaseModel):
    """The ranking, best first."""

    request_id: str
    model: Annotated[dict[str, str], Field(description="name, version and role")]
    fusion: Annotated[dict[str, Any], Field(description="profile and revision; experiment and arm if the user has one")]
    degraded: Annotated[
        list[str], Field(description="what was missing, e.g. unknown_user, unknown_items:3, store_unavailable")
    ]
    coverage: Annotated[dict[str, int], Field(description="requested and scored candidates")]
    ranking: list[Prediction]


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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive, self.settings.max_body_bytes)
        # Admission covers computing only, neither receiving the body nor sending the answer.
        with self.admission.enter():
            self.ranker.metrics.tallies.soon()
            written = await self._answer(body, scope[CONTEXT], has_left(receive))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(written)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": written})

    async def _answer(self, body: bytes, context: RequestContext, has_left: Callable[[], bool]) -> bytes:
        """Return the JSON of a ranking."""
        # Check the request.
        request = parse(RankRequest, body)
        if request.request_id:
            context.request_id = request.request_id
        query, keys = query_of(request, self.settings)
        if may_repeat_keys(body, keys):
            refuse_repeated_keys(body)
        deadline = Deadline(request.timeout_ms or self.settings.default_timeout_ms, context.started)
        # Rank.
        ranking = await self.ranker.rank(query, deadline, has_left)
        # Write the answer.
        started = perf_counter()
        written = answer(ranking, context.request_id)
        seconds = perf_counter() - started
        self.ranker.metrics.stages["respond"].observe(seconds)
        self.admission.note(ranking.costs.computed + seconds, ranking.costs.fetched)
        # A late answer is of no use to the caller, and a 504 says why there is none.
        deadline.check("the answer was ready")
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
    ids, own_features, keys = candidates_of(request.candidates)
    if len(set(ids)) != count:
        raise _duplicates(ids)
    # Check the request's own weights.
    weights: Mapping[str, float] = {}
    if request.fusion is not None:
        if not settings.fusion_overrides:
            raise invalid("fusion", "weights in a request are not allowed (FUNNELRANK_FUSION_OVERRIDES)")
        weights = request.fusion.weights
        keys += 1 + len(weights)
    # Build the query.
    options = RankingOptions(scene=request.scene, weights=weights, top_k=request.top_k, explain=request.explain)
    query = Query(
        user_id=request.user_id,
        item_ids=ids,
        own_features=own_features,
        context=request.context,
        timestamp=request.timestamp,
        options=options,
    )
    return query, keys + len(request.model_fields_set) + len(request.context)


def candidates_of(candidates: list[str | Candidate]) -> tuple[list[str], Mapping[int, Mapping[str, object]], int]:
    """Return ids, the candidates' own values by position, and the number of keys in the candidates' JSON."""
    # The usual case, which runs no Python code per candidate.
    if set(map(type, candidates)) == {str}:
        return candidates, {}, 0  # type: ignore[return-value]
    ids: list[str] = []
    own: dict[int, Mapping[str, object]] = {}
    keys = 0
    for place, candidate in enumerate(candidates):
        if isinstance(candidate, str):
            ids.append(candidate)
            continue
        ids.append(candidate.item_id)
        features = candidate.features
        if features:
            own[place] = features
            keys += 2 + len(features)
        else:
            keys += 1
    return ids, own, keys


def _duplicates(ids: list[str]) -> InvalidRequest:
    first: dict[str, int] = {}
    for place, item_id in enumerate(ids):
        if first.setdefault(item_id, place) != place:
            return invalid(
                f"candidates[{place}]", f"the item is candidates[{first[item_id]}] already; ids must be unique"
            )
    raise AssertionError("no id occurs twice")
