"""Owns the check of operators' calls: the bearer token, or loopback where none is set."""

from hmac import compare_digest

from starlette.requests import Request

from service.errors import Forbidden, Unauthorized
from service.settings import Settings, is_loopback

_FORWARDED = ("forwarded", "x-forwarded-for")  # a proxy on this machine speaks for callers that are not on it


def require_operator(request: Request, settings: Settings) -> None:
    """Raises Unauthorized without the token, Forbidden where no token is set and the service can be reached from outside."""
    token = settings.admin_token.get_secret_value()
    if not token:
        client = request.client.host if request.client else ""
        if settings.on_loopback and is_loopback(client) and not any(h in request.headers for h in _FORWARDED):
            return
        raise Forbidden("operators' calls are off until FUNNELRANK_ADMIN_TOKEN is set")
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise Unauthorized("send 'Authorization: Bearer TOKEN'", headers={"WWW-Authenticate": "Bearer"})
    if not compare_digest(given.strip().encode(), token.encode()):
        raise Unauthorized("the token is wrong", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
