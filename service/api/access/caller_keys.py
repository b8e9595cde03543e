"""Checks the key of every request where there is a callers document: role, then rate, before the body is read."""

from collections.abc import Iterable, Mapping
from math import ceil
from types import MappingProxyType
from typing import Final

from starlette.types import Scope

from service.api.problems import Forbidden, RateLimited, Unauthorized
from service.callers.callers import Callers, Grant
from service.callers.document import CallerRole
from service.errors import NotReady

# Anyone may see these: they have neither data nor secrets, and those who probe and read them have no key.
_OPEN: Final = frozenset({"/livez", "/readyz", "/docs", "/openapi.json"})
_METRICS: Final = "/metrics"
# The console is a static page, which asks for a key itself.
_CONSOLE: Final = ("/console", "/console/")
# Other routes that only read need `read`, all others `operate`, so that a new route is not open by mistake.
_ROLES: Final[Mapping[tuple[str, str], CallerRole]] = MappingProxyType(
    {
        ("POST", "/rank"): CallerRole.READ,
        ("POST", "/rank/preview"): CallerRole.READ,
        ("POST", "/fusion/preview"): CallerRole.READ,
        ("POST", "/rules/preview"): CallerRole.READ,
        ("POST", "/events"): CallerRole.WRITE,
        ("POST", "/impressions"): CallerRole.WRITE,
        ("PUT", "/features/users"): CallerRole.WRITE,
        ("PUT", "/features/items"): CallerRole.WRITE,
        ("GET", "/callers"): CallerRole.OPERATE,
        ("HEAD", "/callers"): CallerRole.OPERATE,
    }
)
# Routes with the role `read` that show single users' rows, compute for a long time, or rank without a trace in counters
# and log: never for anonymous callers, and not for pages of other origins.
NEVER_ANONYMOUS: Final = ("/store/", "/fusion/preview", "/rules/preview", "/rank/preview")
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_LONGEST_WAIT_S: Final = 86_400.0  # a caller with a tiny rate may ask again tomorrow
_CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}
_INVALID: Final = {"WWW-Authenticate": 'Bearer error="invalid_token"'}


def needed_role(method: str, path: str, metrics_are_open: bool) -> CallerRole | None:
    """Return the role that a call needs; None if anyone may make it."""
    role = _ROLES.get((method, path))
    if role is not None:
        return role
    if path in _OPEN or (path == _METRICS and metrics_are_open):
        return None
    if method in _READING and (path in _CONSOLE or path.startswith(_CONSOLE[1])):
        return None
    return CallerRole.READ if method in _READING else CallerRole.OPERATE


def admitted(scope: Scope, callers: Callers, now: float, metrics_are_open: bool) -> Grant | None:
    """Return what the key of a request permits; None for a route that needs no key.

    `now` is the time of the request (monotonic seconds). Raises Unauthorized, Forbidden, RateLimited, and NotReady
    until the document has been read.
    """
    role = needed_role(scope["method"], scope["path"], metrics_are_open)
    if role is None:
        return None
    if not callers.is_read:
        raise NotReady("the callers document has not been read yet")
    grant = callers.grant_of(bearer_key(scope["headers"]))
    if grant is None:
        raise Unauthorized("the key is unknown or has expired", headers=_INVALID)
    if not grant.role.includes(role):
        raise Forbidden(f"this call needs the role {role}; the caller {grant.name} has {grant.role}")
    grant.used_at = now
    wait = grant.bucket.take(now) if grant.bucket is not None else 0.0
    if wait:
        raise RateLimited(
            f"the caller {grant.name} has sent more requests than its rate allows",
            headers={"Retry-After": str(max(1, ceil(min(wait, _LONGEST_WAIT_S))))},
        )
    return grant


def bearer_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the key of the one Authorization header. Raises Unauthorized if there is none, or more than one."""
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        raise Unauthorized("send 'Authorization: Bearer KEY'", headers=_CHALLENGE)
    if len(values) > 1:
        raise Unauthorized("send one Authorization header", headers=_CHALLENGE)
    scheme, _, key = values[0].partition(b" ")
    if scheme.lower() != b"bearer" or not key.strip():
        raise Unauthorized("send 'Authorization: Bearer KEY'", headers=_CHALLENGE)
    return key.strip()
