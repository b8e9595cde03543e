"""Reads request bodies: the byte limit first, then JSON, then the fields."""

import asyncio
import json
from collections.abc import Sequence
from time import monotonic
from typing import Any, Generic, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from features.keys import MAX_VALUE_CHARACTERS
from service.api.context import CONTEXT
from service.api.problems import ERRORS_SHOWN, BodyTooLarge, MalformedJson
from service.api.services import services_of
from service.errors import FieldError, InvalidRequest, Overloaded, fault_of, invalid

Model = TypeVar("Model", bound=BaseModel)
MAX_KEYS = 65_536
_TURN_SECONDS = 2.0
_LOOK_SECONDS = 0.01
_ERRORS_READ = 200  # a body of nothing but errors can have as many as it has bytes
_CANDIDATE = 'a candidate is a non-empty string of at most 256 characters, or {"item_id": ..., "features": {...}}'
_LABEL = f"a string of at most {MAX_VALUE_CHARACTERS} characters, or an integer of at most 64 bits"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x78\x01", b"\x78\x9c", b"\x78\xda")  # gzip, Zstandard, zlib
_UTF8_MARK = b"\xef\xbb\xbf"


class JsonBody(Generic[Model]):
    """A FastAPI dependency that reads and checks a body; the OpenAPI document takes `model` from here.

    FastAPI's own body parameters have no strict JSON mode and build every value twice. `threaded`: checking takes
    longer than the event loop may be held, so it is done in a thread. `alone`: one body at a time, because callers who
    may change nothing may send many, and the threads would take the processor from rankings. So many as `waiting` says
    may wait for their turn.
    """

    def __init__(
        self,
        model: type[Model],
        *,
        required: bool = True,
        max_keys: int = MAX_KEYS,
        threaded: bool = False,
        alone: bool = False,
        waiting: int = 0,
    ) -> None:
        self.model = model
        self.required = required
        self.max_keys = max_keys
        self.threaded = threaded
        self.alone = alone
        self.waiting = waiting
        self._busy = False
        self._waiting = 0

    async def __call__(self, request: Request) -> Model:
        """Return the checked body. A body that is not required may be empty. Raises the errors of `read_body` and
        `parse`, and Overloaded.
        """
        services = await services_of(request)
        body = await read_body(request.scope[CONTEXT].content_length, request.receive, services.settings.max_body_bytes)
        if not self.required and not body.strip():
            body = b"{}"
        if not self.threaded:
            return self._parse(body)
        if self.alone:
            await self._wait_for_turn()
        self._busy = True
        try:
            return await asyncio.to_thread(self._parse, body)
        finally:
            self._busy = False

    async def _wait_for_turn(self) -> None:
        """Return when no body is checked. Raises Overloaded if it takes too long, or if enough callers wait already."""
        end = monotonic() + _TURN_SECONDS
        self._waiting += 1
        try:
            while self._busy:
                if self._waiting > self.waiting or monotonic() > end:
                    raise Overloaded("this worker checks another document of this kind; try again in a moment")
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            self._waiting -= 1

    def _parse(self, body: bytes) -> Model:
        parsed = parse(self.model, body, self.max_keys)
        refuse_repeated_keys(body)
        return parsed


async def read_body(declared: int, receive: Receive, limit: int) -> bytes:
    """Read the body, but at most `limit` bytes. Raises BodyTooLarge or ClientDisconnect."""
    # A `declared` length that is too large is refused before anything is read.
    if declared > limit:
        raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        return body
    return await _read_parts(message, receive, limit)


async def _read_parts(message: Any, receive: Receive, limit: int) -> bytes:
    parts = []
    size = 0
    while message["type"] == "http.request":
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
    raise ClientDisconnect


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {limit} bytes (FUNNELRANK_MAX_BODY_BYTES)")


def parse(model: type[Model], body: bytes, max_keys: int = MAX_KEYS) -> Model:
    """Parse and check a body. Raises MalformedJson if it is not JSON, else InvalidRequest that names each bad field.

    Parsing time depends on the number of keys, lists and objects more than on the number of bytes, so both numbers are
    bounded too.
    """
    if len(body) > max_keys:
        _check_size(body, max_keys)
    try:
        # Strict: "5" and true are not accepted as numbers.
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise _refusal(error, body, model) from None


def _check_size(body: bytes, max_keys: int) -> None:
    keys = body.count(b":")
    containers = body.count(b"]") + body.count(b"}")
    if keys > max_keys or containers > max_keys:
        size = f"about {keys} keys and {containers} lists and objects"
        raise invalid("body", f"{size}, {max_keys} of each are allowed; send smaller batches")


def _refusal(error: ValidationError, body: bytes, model: type[BaseModel]) -> MalformedJson | InvalidRequest:
    """The error for a body that does not fit its model."""
    count = error.error_count()
    if count > _ERRORS_READ:
        message = f"{count} fields are unknown or wrong"
        return InvalidRequest(message, errors=[FieldError("body", message)])
    details = error.errors(include_url=False, include_context=False, include_input=False)
    if details[0]["type"] == "json_invalid":
        return MalformedJson(_encoding_fault(body) or details[0]["msg"])
    bad = bad_fields(details, model)
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    return InvalidRequest(f"{bad[0].field}: {bad[0].message}{more}", errors=bad[:ERRORS_SHOWN])


def _encoding_fault(body: bytes) -> str:
    """Return a message about the encoding of a body; it is empty if the encoding is right.

    JSON is UTF-8 without a byte order mark (RFC 8259), and a `Content-Encoding` is not undone here.
    """
    if body.startswith(_COMPRESSED):
        return "the body is compressed; send it as it is, without a Content-Encoding"
    if body.startswith(_UTF8_MARK):
        return "the body begins with a byte order mark (EF BB BF); send UTF-8 without one"
    if body.startswith(_UTF16_MARKS) or b"\x00" in body[:4]:
        return "the body is UTF-16 or UTF-32; send UTF-8"
    return ""


def may_repeat_keys(body: bytes, keys: int) -> bool:
    """Return whether a valid JSON body could contain a key twice, given that `keys` keys were read. Costs microseconds.

    Every key is followed by a colon. If there are no more colons than keys, no key occurs twice; strings may contain
    colons too.
    """
    if body.count(b":") == keys:
        return False
    return body.count(b'":') != keys or any(space in body for space in (b" :", b"\t:", b"\n:", b"\r:"))


def refuse_repeated_keys(body: bytes) -> None:
    """Raise InvalidRequest with the name of a key that occurs twice in one object of a valid JSON body."""
    # Numbers are not needed here, and Python refuses to parse those of more than 4300 digits.
    json.loads(body, object_pairs_hook=_refuse_repeated, parse_int=bool, parse_float=bool)


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        seen: set[str] = set()
        name = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        message = "the key occurs twice in one object"
        raise InvalidRequest(f"{name}: {message}", errors=[FieldError(name, message)])
    return names


def bad_fields(details: Sequence[ErrorDetails], model: type[BaseModel]) -> list[FieldError]:
    """Translate pydantic's errors into the words of the API: `candidates[3].item_id`, one error per field."""
    errors: dict[str, FieldError] = {}
    for detail in details:
        location = detail["loc"]
        message = fault_of(detail, model)
        if location[:1] == ("candidates",) and len(location) > 2:
            of_object = location[2] == "Candidate" and len(location) > 3
            location, message = (location[:2] + location[3:], message) if of_object else (location[:2], _CANDIDATE)
            if not of_object and any(field.startswith(path_of(location) + ".") for field in errors):
                continue
        if location[:1] == ("events",) and len(location) > 3:
            location = location[:3]
            message = _LABEL
        # pydantic has one error per member of a union; the first one says enough.
        path = path_of(location)
        errors.setdefault(path, FieldError(path, message))
    return without_parents(list(errors.values()))


def without_parents(errors: list[FieldError]) -> list[FieldError]:
    """Leave out entries that a more exact one repeats: `candidates[3]` if `candidates[3].item_id` is there."""
    return [e for e in errors if not any(other.field.startswith(f"{e.field}.") for other in errors)]


def path_of(location: Sequence[str | int]) -> str:
    """`("items", 3, "features")` -> `items[3].features`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "body"
