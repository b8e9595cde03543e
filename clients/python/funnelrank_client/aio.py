"""The asynchronous client, on aiohttp (`pip install funnelrank-client[async]`). Its calls are those of `Client`."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Unpack

import aiohttp

from funnelrank_client import calls
from funnelrank_client.calls import Call, Reply, Secrets
from funnelrank_client.client import CHANGE_TIMEOUT_MS, Answer, is_passing
from funnelrank_client.errors import DeadlineExceeded, FunnelrankError, NoAnswer
from funnelrank_client.policy import Deadline, Policy
from funnelrank_client.ranking import Ranking, fallback_ranking, ranking_of
from funnelrank_client.requests import Candidate, Event, Impression, RankOptions, Value, rank_body


class AsyncClient:
    """Calls one service from an event loop. Use it with `async with`.

    The arguments are those of `Client`, without `connections`.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_ms: int = 1000,
        key: str | None = None,
        token: str | None = None,
        policy: Policy | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._timeout_ms = timeout_ms
        self._secrets = Secrets(key, token)
        self._policy = policy or Policy()
        self._context = context
        self._session: aiohttp.ClientSession | None = None

    async def rank(
        self,
        user_id: str,
        candidates: Sequence[str | Candidate],
        *,
        timeout_ms: int | None = None,
        request_id: str | None = None,
        **options: Unpack[RankOptions],
    ) -> Ranking:
        """Rank as `Client.rank` does."""
        deadline = Deadline(timeout_ms or self._timeout_ms)
        named = request_id or uuid.uuid4().hex

        async def attempt() -> Ranking:
            body = rank_body(user_id, candidates, deadline.for_service_ms, {**options, "request_id": named})
            return ranking_of(await self._hedged(Call("POST", "/rank", body), deadline, named))

        return await self._repeated(attempt, deadline)

    async def rank_or(
        self,
        fallback: Sequence[str] | None,
        user_id: str,
        candidates: Sequence[str | Candidate],
        *,
        request_id: str | None = None,
        **options: Unpack[RankOptions],
    ) -> Ranking:
        """Rank, or give a fallback order, as `Client.rank_or` does."""
        named = request_id or uuid.uuid4().hex
        try:
            return await self.rank(user_id, candidates, request_id=named, **options)
        except FunnelrankError as error:
            if not is_passing(error):
                raise
            ids = [c if isinstance(c, str) else c.item_id for c in candidates]
            return fallback_ranking(ids if fallback is None else fallback, named, type(error).__name__)

    async def send_events(self, events: Sequence[Event], *, timeout_ms: int | None = None) -> Mapping[str, Any]:
        return await self._json(calls.events(events), timeout_ms)

    async def send_impressions(
        self, impressions: Sequence[Impression], *, timeout_ms: int | None = None
    ) -> Mapping[str, Any]:
        return await self._json(calls.impressions(impressions), timeout_ms)

    async def put_user_features(
        self, users: Mapping[str, Mapping[str, Value]], *, timeout_ms: int | None = None
    ) -> Mapping[str, Any]:
        return await self._json(calls.put_users(users), timeout_ms)

    async def put_item_features(
        self, items: Mapping[str, Mapping[str, Value]], *, timeout_ms: int | None = None
    ) -> Mapping[str, Any]:
        return await self._json(calls.put_items(items), timeout_ms)

    async def get_fusion(self) -> Mapping[str, Any]:
        return await self._json(calls.get("/fusion"))

    async def put_fusion(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self._json(calls.put_document("/fusion", document), CHANGE_TIMEOUT_MS)

    async def roll_back_fusion(
        self, *, to: int | None = None, revision: int | None = None, author: str = "", reason: str = ""
    ) -> Mapping[str, Any]:
        return await self._json(calls.roll_back("/fusion/rollback", to, revision, author, reason), CHANGE_TIMEOUT_MS)

    async def preview_fusion(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self._json(calls.preview("/fusion/preview", document), CHANGE_TIMEOUT_MS)

    async def preview_ranking(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self._json(calls.preview("/rank/preview", request))

    async def get_callers(self) -> Mapping[str, Any]:
        return await self._json(calls.get("/callers", operator=True))

    async def get_quality(self) -> Mapping[str, Any]:
        return await self._json(calls.get("/quality"))

    async def get_rules(self) -> Mapping[str, Any]:
        return await self._json(calls.get("/rules"))

    async def put_rules(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self._json(calls.put_document("/rules", document), CHANGE_TIMEOUT_MS)

    async def roll_back_rules(
        self, *, to: int | None = None, revision: int | None = None, author: str = "", reason: str = ""
    ) -> Mapping[str, Any]:
        return await self._json(calls.roll_back("/rules/rollback", to, revision, author, reason), CHANGE_TIMEOUT_MS)

    async def preview_rules(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self._json(calls.preview("/rules/preview", document), CHANGE_TIMEOUT_MS)

    async def get_models(self) -> Mapping[str, Any]:
        return await self._json(calls.get("/models"))

    async def get_model(self, name: str, version: str) -> Mapping[str, Any]:
        return await self._json(calls.get(f"/models/{name}/{version}"))

    async def put_rollout(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self._json(calls.put_document("/models/rollout", document), CHANGE_TIMEOUT_MS)

    async def roll_back_models(
        self,
        *,
        to: int | None = None,
        revision: int | None = None,
        author: str = "",
        reason: str = "",
        line: str | None = None,
    ) -> Mapping[str, Any]:
        call = calls.roll_back("/models/rollback", to, revision, author, reason, line)
        return await self._json(call, CHANGE_TIMEOUT_MS)

    async def get_stored_user(self, user_id: str, behaviours: int | None = None) -> Mapping[str, Any]:
        return await self._json(calls.stored("users", user_id, behaviours))

    async def get_stored_item(self, item_id: str) -> Mapping[str, Any]:
        return await self._json(calls.stored("items", item_id))

    async def get_stats(self, window_s: int = 300) -> Mapping[str, Any]:
        return await self._json(calls.get(f"/stats?window_s={window_s}"))

    async def is_live(self) -> bool:
        return await self._answers("/livez")

    async def is_ready(self) -> bool:
        return await self._answers("/readyz")

    async def get_metrics(self) -> str:
        return (await self._sent(calls.get("/metrics"), Deadline(self._timeout_ms))).checked().decode()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def _answers(self, path: str) -> bool:
        try:
            return (await self._sent(calls.get(path), Deadline(self._timeout_ms))).status == 200
        except FunnelrankError:
            return False

    async def _json(self, call: Call, timeout_ms: int | None = None) -> Mapping[str, Any]:
        deadline = Deadline(timeout_ms or self._timeout_ms)

        async def attempt() -> Any:
            return (await self._sent(call, deadline)).json()

        if not call.repeats:
            return await attempt()  # type: ignore[no-any-return]
        return await self._repeated(attempt, deadline)

    async def _repeated(self, attempt: Callable[[], Awaitable[Answer]], deadline: Deadline) -> Answer:
        """The answer of the first successful attempt. Raises the error of the last one."""
        count = 0
        while True:
            count += 1
            try:
                return await attempt()
            except FunnelrankError as error:
                pause = self._policy.pause_s(count, error)
                if pause is None or pause >= deadline.left_s:
                    raise
            await asyncio.sleep(pause)

    async def _sent(self, call: Call, deadline: Deadline, request_id: str | None = None) -> Reply:
        left = deadline.left_s
        if left <= 0:
            raise DeadlineExceeded("the deadline passed before the request was sent")
        headers = call.headers(self._secrets, request_id)
        timeout = aiohttp.ClientTimeout(total=left)
        # A change gets a new connection: the service may have closed an open one, and a change is sent once.
        session = self._opened() if call.repeats else self._new_session((_send_once,))
        try:
            async with session.request(
                call.method, self._url + call.path, data=call.content(), headers=headers, timeout=timeout
            ) as answer:
                names = {name.lower(): value for name, value in answer.headers.items()}
                return Reply(answer.status, names, await answer.read())
        except TimeoutError as error:
            raise DeadlineExceeded(f"no answer from {self._url} within {left:.3f} s") from error
        except aiohttp.ClientError as error:
            raise NoAnswer(f"no answer from {self._url}: {error!r}") from error
        finally:
            if session is not self._session:
                await session.close()

    async def _hedged(self, call: Call, deadline: Deadline, request_id: str) -> Reply:
        """The first reply of up to two attempts."""
        after_ms = self._policy.hedge_after_ms
        if after_ms is None or deadline.left_s * 1000 <= after_ms:
            return await self._sent(call, deadline, request_id)
        sendings = {asyncio.ensure_future(self._sent(call, deadline, request_id))}
        try:
            done, _ = await asyncio.wait(sendings, timeout=after_ms / 1000)
            if not done:
                sendings.add(asyncio.ensure_future(self._sent(call, deadline, request_id)))
            return await _first_reply(sendings)
        finally:
            for sending in sendings:
                sending.cancel()
            await asyncio.gather(*sendings, return_exceptions=True)

    def _opened(self) -> aiohttp.ClientSession:
        """The session. It is created in the event loop that uses it."""
        if self._session is None:
            self._session = self._new_session()
        return self._session

    def _new_session(self, middlewares: Sequence[aiohttp.ClientMiddlewareType] = ()) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=0, ssl=self._context or True, keepalive_timeout=60)
        return aiohttp.ClientSession(connector=connector, middlewares=middlewares)


async def _send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Raise NoAnswer for a broken connection: aiohttp would send a PUT again after an error of its own."""
    try:
        return await handler(request)
    except aiohttp.ClientError as error:
        raise NoAnswer(f"no answer from {request.url.host}: {error!r}") from error


async def _first_reply(left: set[asyncio.Task[Reply]]) -> Reply:
    """The first success. Raises the last failure if all fail."""
    while True:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for sending in done:
            if sending.exception() is None and sending.result().status == 200:
                return sending.result()
        if not left:
            return done.pop().result()
