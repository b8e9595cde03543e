"""The synchronous client. Threads may share one."""

from __future__ import annotations

import ssl
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, TypeVar, Unpack

from funnelrank_client import calls
from funnelrank_client.calls import Call, Reply, Secrets
from funnelrank_client.connections import ConnectionPool
from funnelrank_client.errors import DeadlineExceeded, FunnelrankError
from funnelrank_client.policy import Deadline, Policy
from funnelrank_client.ranking import Ranking, fallback_ranking, ranking_of
from funnelrank_client.requests import Candidate, Event, Impression, RankOptions, Value, rank_body

CHANGE_TIMEOUT_MS = 60_000  # a change of the live version is verified before it is answered
Answer = TypeVar("Answer")


class Client:
    """Calls one service.

    `timeout_ms` is the deadline of a ranking, including attempts and pauses; the service gets the remaining time.
    `key` is the caller's key, which every call sends; `token` is the operators' token, which operators' calls send
    instead. `context` is the TLS context for https.
    `connections` is the number of idle connections that stay open.
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
        connections: int = 16,
    ) -> None:
        self._pool = ConnectionPool(url, context, connections)
        self._timeout_ms = timeout_ms
        self._secrets = Secrets(key, token)
        self._policy = policy or Policy()
        self._hedges: ThreadPoolExecutor | None = None
        if self._policy.hedge_after_ms is not None:
            self._hedges = ThreadPoolExecutor(2 * connections, thread_name_prefix="funnelrank-hedge")

    def rank(
        self,
        user_id: str,
        candidates: Sequence[str | Candidate],
        *,
        timeout_ms: int | None = None,
        request_id: str | None = None,
        **options: Unpack[RankOptions],
    ) -> Ranking:
        """Rank `candidates` for a user.

        `options` are further fields of `POST /rank`. Raises FunnelrankError: BadRequest, Unavailable, DeadlineExceeded,
        NoAnswer.
        """
        deadline = Deadline(timeout_ms or self._timeout_ms)
        named = request_id or uuid.uuid4().hex

        def attempt() -> Reply:
            body = rank_body(user_id, candidates, deadline.for_service_ms, {**options, "request_id": named})
            return self._hedged(Call("POST", "/rank", body), deadline, named)

        return self._repeated(lambda: ranking_of(attempt()), deadline)

    def rank_or(
        self,
        fallback: Sequence[str] | None,
        user_id: str,
        candidates: Sequence[str | Candidate],
        *,
        request_id: str | None = None,
        **options: Unpack[RankOptions],
    ) -> Ranking:
        """Rank, or give the order of `fallback` if there is no ranking before the deadline.

        None gives the order of `candidates`. A wrong call still raises BadRequest or NotAllowed: otherwise the fault
        would never be seen.
        """
        named = request_id or uuid.uuid4().hex
        try:
            return self.rank(user_id, candidates, request_id=named, **options)
        except FunnelrankError as error:
            if not is_passing(error):
                raise
            ids = [c if isinstance(c, str) else c.item_id for c in candidates]
            return fallback_ranking(ids if fallback is None else fallback, named, type(error).__name__)

    def send_events(self, events: Sequence[Event], *, timeout_ms: int | None = None) -> Mapping[str, Any]:
        """Write behaviours; at most 1,000 in one call. The answer has `accepted` and `new`."""
        return self._json(calls.events(events), timeout_ms)

    def send_impressions(
        self, impressions: Sequence[Impression], *, timeout_ms: int | None = None
    ) -> Mapping[str, Any]:
        """Report items that came into view. `new` in the answer is None if the service cannot tell."""
        return self._json(calls.impressions(impressions), timeout_ms)

    def put_user_features(
        self, users: Mapping[str, Mapping[str, Value]], *, timeout_ms: int | None = None
    ) -> Mapping[str, Any]:
        """Write features of users: user id to feature values."""
        return self._json(calls.put_users(users), timeout_ms)

    def put_item_features(
        self, items: Mapping[str, Mapping[str, Value]], *, timeout_ms: int | None = None
    ) -> Mapping[str, Any]:
        """Write features of items: item id to feature values."""
        return self._json(calls.put_items(items), timeout_ms)

    def get_fusion(self) -> Mapping[str, Any]:
        return self._json(calls.get("/fusion"))

    def put_fusion(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._json(calls.put_document("/fusion", document), CHANGE_TIMEOUT_MS)

    def roll_back_fusion(
        self, *, to: int | None = None, revision: int | None = None, author: str = "", reason: str = ""
    ) -> Mapping[str, Any]:
        return self._json(calls.roll_back("/fusion/rollback", to, revision, author, reason), CHANGE_TIMEOUT_MS)

    def preview_fusion(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """The effect of a fusion document on recent requests; nothing is changed."""
        return self._json(calls.preview("/fusion/preview", document), CHANGE_TIMEOUT_MS)

    def preview_ranking(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Rank by a chosen `version` (`name/version`), `profile` and `rules`; it is neither counted nor logged."""
        return self._json(calls.preview("/rank/preview", request))

    def get_callers(self) -> Mapping[str, Any]:
        return self._json(calls.get("/callers", operator=True))

    def get_quality(self) -> Mapping[str, Any]:
        return self._json(calls.get("/quality"))

    def get_rules(self) -> Mapping[str, Any]:
        return self._json(calls.get("/rules"))

    def put_rules(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._json(calls.put_document("/rules", document), CHANGE_TIMEOUT_MS)

    def roll_back_rules(
        self, *, to: int | None = None, revision: int | None = None, author: str = "", reason: str = ""
    ) -> Mapping[str, Any]:
        return self._json(calls.roll_back("/rules/rollback", to, revision, author, reason), CHANGE_TIMEOUT_MS)

    def preview_rules(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """The effect of a rules document on recent requests; nothing is changed."""
        return self._json(calls.preview("/rules/preview", document), CHANGE_TIMEOUT_MS)

    def get_models(self) -> Mapping[str, Any]:
        return self._json(calls.get("/models"))

    def get_model(self, name: str, version: str) -> Mapping[str, Any]:
        """A published version: its manifest, its places in the rollout, what the gate measured."""
        return self._json(calls.get(f"/models/{name}/{version}"))

    def put_rollout(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._json(calls.put_document("/models/rollout", document), CHANGE_TIMEOUT_MS)

    def roll_back_models(
        self,
        *,
        to: int | None = None,
        revision: int | None = None,
        author: str = "",
        reason: str = "",
        line: str | None = None,
    ) -> Mapping[str, Any]:
        call = calls.roll_back("/models/rollback", to, revision, author, reason, line)
        return self._json(call, CHANGE_TIMEOUT_MS)

    def get_stored_user(self, user_id: str, behaviours: int | None = None) -> Mapping[str, Any]:
        """The rows and newest behaviours of a user, decoded."""
        return self._json(calls.stored("users", user_id, behaviours))

    def get_stored_item(self, item_id: str) -> Mapping[str, Any]:
        """The rows of an item, decoded."""
        return self._json(calls.stored("items", item_id))

    def get_stats(self, window_s: int = 300) -> Mapping[str, Any]:
        """Traffic, latency, versions, store and alarms of one host, over the last seconds."""
        return self._json(calls.get(f"/stats?window_s={window_s}"))

    def is_live(self) -> bool:
        """Whether the process answers."""
        return self._answers("/livez")

    def is_ready(self) -> bool:
        """Whether the service can rank."""
        return self._answers("/readyz")

    def get_metrics(self) -> str:
        """All metrics in the text form of Prometheus."""
        return self._sent(calls.get("/metrics"), Deadline(self._timeout_ms)).checked().decode()

    def close(self) -> None:
        if self._hedges is not None:
            self._hedges.shutdown(wait=True)
        self._pool.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answers(self, path: str) -> bool:
        try:
            return self._sent(calls.get(path), Deadline(self._timeout_ms)).status == 200
        except FunnelrankError:
            return False

    def _json(self, call: Call, timeout_ms: int | None = None) -> Mapping[str, Any]:
        deadline = Deadline(timeout_ms or self._timeout_ms)
        if not call.repeats:
            return self._sent(call, deadline).json()  # type: ignore[no-any-return]
        return self._repeated(lambda: self._sent(call, deadline).json(), deadline)

    def _repeated(self, attempt: Callable[[], Answer], deadline: Deadline) -> Answer:
        """The answer of the first successful attempt. Raises the error of the last one."""
        count = 0
        while True:
            count += 1
            try:
                return attempt()
            except FunnelrankError as error:
                pause = self._policy.pause_s(count, error)
                if pause is None or pause >= deadline.left_s:
                    raise
            time.sleep(pause)

    def _sent(self, call: Call, deadline: Deadline, request_id: str | None = None) -> Reply:
        left = deadline.left_s
        if left <= 0:
            raise DeadlineExceeded("the deadline passed before the request was sent")
        return self._pool.send(call, call.headers(self._secrets, request_id), left)

    def _hedged(self, call: Call, deadline: Deadline, request_id: str) -> Reply:
        """The first reply of up to two attempts."""
        after_ms = self._policy.hedge_after_ms
        if self._hedges is None or after_ms is None or deadline.left_s * 1000 <= after_ms:
            return self._sent(call, deadline, request_id)
        sendings: set[Future[Reply]] = {self._hedges.submit(self._sent, call, deadline, request_id)}
        done, _ = wait(sendings, timeout=after_ms / 1000)
        if not done:
            sendings.add(self._hedges.submit(self._sent, call, deadline, request_id))
        return first_reply(sendings, deadline)


def first_reply(sendings: set[Future[Reply]], deadline: Deadline) -> Reply:
    """The first success. Raises the last failure if all fail, and DeadlineExceeded if the time is over before."""
    while True:
        done, sendings = wait(sendings, timeout=max(0.0, deadline.left_s), return_when=FIRST_COMPLETED)
        if not done:
            raise DeadlineExceeded("no attempt had an answer before the deadline")
        for sending in done:
            if sending.exception() is None and sending.result().status == 200:
                return sending.result()
        if not sendings:
            return done.pop().result()


def is_passing(error: FunnelrankError) -> bool:
    """Whether the same call may succeed later."""
    status = getattr(error, "status", None)
    return status is None or status >= 500
