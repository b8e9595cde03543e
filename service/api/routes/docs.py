"""Answers `GET /openapi.json` and `GET /docs`; the page loads nothing from other hosts."""

import asyncio
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

router = APIRouter(include_in_schema=False)
_PAGE = files("service.api.routes").joinpath("docs.html").read_text(encoding="utf-8")
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'"
)


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return JSONResponse(await asyncio.to_thread(request.app.openapi))


@router.get("/docs")
async def docs() -> Response:
    """The page that shows the document."""
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY})
