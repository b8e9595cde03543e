"""Checks operators' calls: a caller's key, the admin token, or loopback if no token is set."""

import re
from hmac import compare_digest
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from service.api.context import CONTEXT
from service.api.problems import Forbidden, Unauthorized
from service.api.services import services_of
from service.setting_values import is_loopback
from service.settings import Settings

# A proxy on this machine forwards requests of callers that are elsewhere.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
_HOST = re.compile(r"(?P<name>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_OWN_SITES = ("same-origin", "none")
_DOCUMENTED = HTTPBearer(
    scheme_name="operator", description="FUNNELRANK_ADMIN_TOKEN, or a caller's key", auto_error=False
)


async def require_operator(request: Request, _: Annotated[object, Depends(_DOCUMENTED)]) -> None:
    """A FastAPI dependency of operators' routes. Raises what `check_operator` raises."""
    services = await services_of(request)
    check_operator(request, services.settings)


Operator = Depends(require_operator)


def check_operator(request: Request, settings: Settings) -> None:
    """Check an operator's call.

    Raises Unauthorized if the token is missing or wrong. Raises Forbidden for a page of another site and, if no token
    is set, for a call from another machine.
    """
    if request.headers.get("sec-fetch-site", "none") not in _OWN_SITES:
        raise Forbidden("operators' calls are not taken from another site's page")
    # The middleware has checked the key and its role, because there is a callers document.
    if request.scope[CONTEXT].grant is not None:
        return
    token = settings.admin_token.get_secret_value()
    if not token:
        if settings.on_loopback and comes_from_here(request):
            return
        raise Forbidden("operators' calls are off until FUNNELRANK_ADMIN_TOKEN is set")
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Unauthorized("send 'Authorization: Bearer TOKEN'", headers={"WWW-Authenticate": "Bearer"})
    # Headers are decoded as latin-1; a token may contain any text.
    if not compare_digest(key.strip().encode("latin-1"), token.encode()):
        raise Unauthorized("the token is wrong", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})


def comes_from_here(request: Request) -> bool:
    """Return whether the caller is a person or program on this machine, and not a web page of another site.

    A browser on this machine sends the page's site as Origin. If the name of that site resolves to this machine (DNS
    rebinding), the Host header contains that name.
    """
    client = request.client.host if request.client else ""
    if not is_loopback(client) or any(header in request.headers for header in _FORWARDED):
        return False
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    return is_loopback(_name_of(host)) and (origin is None or origin == f"{request.url.scheme}://{host}")


def _name_of(host: str) -> str:
    """Return the name or address in a Host header; empty if the header is anything but a name and a port."""
    parts = _HOST.fullmatch(host)
    return "" if parts is None else parts["name"].strip("[]")
