"""Owns `POST /rank`, as a plain ASGI application: nothing stands between the socket and the ranking that it does not need."""

from collections.abc import Callable, Mapping
from time import perf_counter

from starlette.types import Receive, Scope, Send

from service.api.answer import answer
from service.api.body import parse, read_body
from service.api.middleware import CONTEXT, RequestContext
from service.api.requests import Candidate, RankRequest
from service.errors import InvalidRequest, invalid
from service.ranking.admission import Admission
from service.ranking.deadline import Deadline
from service.ranking.query import Options, Query
from service.ranking.ranker import Ranker
from service.settings import Settings


class RankRoute:
    """`POST /rank`."""

    def __init__(self, ranker: Ranker, settings: Settings, admission: Admission) -> None:
        self.ranker = ranker
        self.settings = settings
        self.admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: RequestContext = scope[CONTEXT]
        body = await read_body(scope, receive, self.settings.max_body_bytes)
        with self.admission.enter():
            self.ranker.metrics.tallies.soon()
            written = await self._answer(body, context, has_left(receive))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(written)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": written})

    async def _answer(self, body: bytes, context: RequestContext, has_left: Callable[[], bool]) -> bytes:
        """The JSON of a ranking."""
        request = parse(RankRequest, body)
        if request.request_id:
            context.request_id = request.request_id
        query = query_of(request, self.settings)
        deadline = Deadline(request.timeout_ms or self.settings.default_timeout_ms, context.started)
        ranking = await self.ranker.rank(query, deadline, has_left)
        started = perf_counter()
        written = answer(ranking, context.request_id)
        seconds = perf_counter() - started
        self.ranker.metrics.stages["respond"].observe(seconds)
        self.admission.note(ranking.costs.computed + seconds, ranking.costs.fetched)
        deadline.check("the answer was ready")
        if ranking.degraded:
            context.outcome = "degraded"
        return written


def has_left(receive: Receive) -> Callable[[], bool]:
    """Whether the caller has closed the connection, asked without waiting. uvicorn's `receive` is a method of the exchange, which knows; behind
    another server nobody is known to leave, and the deadline alone ends the work.
    """
    exchange = getattr(receive, "__self__", None)
    return lambda: bool(getattr(exchange, "disconnected", False))


def query_of(request: RankRequest, settings: Settings) -> Query:
    """What the ranker needs of a request. Raises InvalidRequest for what the JSON schema cannot say."""
    count = len(request.candidates)
    if count > settings.max_candidates:
        raise invalid(
            "candidates", f"{count} candidates, {settings.max_candidates} are allowed (FUNNELRANK_MAX_CANDIDATES)"
        )
    ids, own_features = candidates_of(request.candidates)
    if len(set(ids)) != count:
        raise _duplicates(ids)
    if request.fusion is not None and not settings.fusion_overrides:
        raise invalid("fusion", "weights of one's own are not allowed here (FUNNELRANK_FUSION_OVERRIDES)")
    return Query(
        user_id=request.user_id,
        item_ids=ids,
        own_features=own_features,
        context=request.context,
        timestamp=request.timestamp,
        options=Options(
            scene=request.scene,
            weights=request.fusion.weights if request.fusion else {},
            top_k=request.top_k,
            explain=request.explain,
        ),
    )


def candidates_of(candidates: list[str | Candidate]) -> tuple[list[str], Mapping[int, Mapping[str, object]]]:
    """Ids, and by place the values that candidates bring along."""
    if set(map(type, candidates)) == {str}:
        return candidates, {}  # type: ignore[return-value]
    ids = [c if isinstance(c, str) else c.item_id for c in candidates]
    return ids, {i: c.features for i, c in enumerate(candidates) if isinstance(c, Candidate) and c.features}


def _duplicates(ids: list[str]) -> InvalidRequest:
    first: dict[str, int] = {}
    for place, item_id in enumerate(ids):
        if first.setdefault(item_id, place) != place:
            return invalid(
                f"candidates[{place}]", f"the item stands at candidates[{first[item_id]}] already; ids are unique"
            )
    raise AssertionError("no id occurs twice")
