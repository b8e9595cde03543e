"""Owns the check of operators' calls: the bearer token, or loopback where none is set."""

from hmac import compare_digest
from urllib.parse import urlsplit

from starlette.requests import Request

from service.api.problems import Forbidden, Unauthorized
from service.settings import Settings, is_loopback

_FORWARDED = (
    "forwarded",
    "x-forwarded-for",
    "x-real-ip",
    "via",
)  # a proxy on this machine speaks for callers that are not on it


def require_operator(request: Request, settings: Settings) -> None:
    """Raises Unauthorized without the token, Forbidden where no token is set and the service can be reached from outside."""
    token = settings.admin_token.get_secret_value()
    if not token:
        if settings.on_loopback and comes_from_here(request):
            return
        raise Forbidden("operators' calls are off until FUNNELRANK_ADMIN_TOKEN is set")
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise Unauthorized("send 'Authorization: Bearer TOKEN'", headers={"WWW-Authenticate": "Bearer"})
    if not compare_digest(
        given.strip().encode("latin-1"), token.encode()
    ):  # headers are decoded as latin-1; a token may be any text
        raise Unauthorized("the token is wrong", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})


def comes_from_here(request: Request) -> bool:
    """Whether a person or program on this machine calls, and no web page that a browser on this machine shows.

    A page of another site has its own Origin. One whose name was made to lead to this machine (DNS rebinding) has that name as Host.
    """
    client = request.client.host if request.client else ""
    if not is_loopback(client) or any(h in request.headers for h in _FORWARDED):
        return False
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    return is_loopback(_name_of(f"//{host}")) and (origin is None or origin == f"{request.url.scheme}://{host}")


def _name_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
