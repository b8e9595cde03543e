"""The calls of the API without a transport: method, path, body, and the result made from the answer.

`Client` and `AsyncClient` send the calls defined here, so that both have the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from funnelrank_client.errors import NoAnswer, error_of
from funnelrank_client.requests import Event, Impression, Value, to_json

_SHOWN_BYTES = 200


@dataclass(frozen=True)
class Secrets:
    """The caller's key, which every call sends, and the operators' token, which operators' calls send instead."""

    key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Call:
    """One request. `operator` calls send the token, if there is one; a call that `repeats` may be sent twice."""

    method: str
    path: str
    body: Any = None
    operator: bool = False
    repeats: bool = True

    def headers(self, secrets: Secrets, request_id: str | None = None) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if self.body is not None:
            headers["Content-Type"] = "application/json"
        secret = secrets.token if self.operator and secrets.token else secrets.key
        if secret:
            headers["Authorization"] = f"Bearer {secret}"
        if request_id:
            headers["X-Request-Id"] = request_id
        return headers

    def content(self) -> bytes | None:
        return None if self.body is None else to_json(self.body)


@dataclass(frozen=True)
class Reply:
    """An answer of the service. `headers` has lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def checked(self) -> bytes:
        """The body. Raises the error of an answer that is not 2xx."""
        if 200 <= self.status < 300:
            return self.body
        raise error_of(self.status, self.headers, self.body)

    def json(self) -> Any:
        """The parsed body. Raises the errors of `checked`, and NoAnswer for what is not JSON, e.g. a proxy's page."""
        body = self.checked()
        try:
            return json.loads(body)
        except ValueError as error:
            raise NoAnswer(f"the answer is not JSON: {body[:_SHOWN_BYTES]!r}") from error


def events(batch: Sequence[Event]) -> Call:
    return Call("POST", "/events", {"events": [event.as_json() for event in batch]})


def impressions(batch: Sequence[Impression]) -> Call:
    return Call("POST", "/impressions", {"impressions": [impression.as_json() for impression in batch]})


def put_users(users: Mapping[str, Mapping[str, Value]]) -> Call:
    rows = [{"user_id": user_id, "features": features} for user_id, features in users.items()]
    return Call("PUT", "/features/users", {"users": rows}, operator=True)


def put_items(items: Mapping[str, Mapping[str, Value]]) -> Call:
    rows = [{"item_id": item_id, "features": features} for item_id, features in items.items()]
    return Call("PUT", "/features/items", {"items": rows}, operator=True)


def get(path: str, operator: bool = False) -> Call:
    return Call("GET", path, operator=operator)


def preview(path: str, document: Mapping[str, Any]) -> Call:
    """The effect of a document that is not made live."""
    return Call("POST", path, dict(document), operator=True)


def stored(kind: str, entity_id: str, behaviours: int | None = None) -> Call:
    """What the store has for one of `users` or `items`."""
    newest = "" if behaviours is None else f"?behaviours={behaviours}"
    return get(f"/store/{kind}/{quote(entity_id, safe='')}{newest}", operator=True)


def put_document(path: str, document: Mapping[str, Any]) -> Call:
    """A change of a live document. It is not repeated, because the first attempt may have succeeded."""
    return Call("PUT", path, dict(document), operator=True, repeats=False)


def roll_back(
    path: str, to: int | None, revision: int | None, author: str, reason: str, line: str | None = None
) -> Call:
    named = {"to": to, "revision": revision, "author": author, "reason": reason, "line": line}
    body = {name: value for name, value in named.items() if value not in (None, "")}
    return Call("POST", path, body, operator=True, repeats=False)
