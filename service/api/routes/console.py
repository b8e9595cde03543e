"""Gives out the console at `GET /console/`: static files, which need no key and read the API with the caller's own."""

import gzip
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from typing import Annotated, Final, NamedTuple

from fastapi import APIRouter, Header
from fastapi.responses import RedirectResponse, Response

from service.api.problems import NotFound

router = APIRouter(include_in_schema=False)
_PAGE: Final = "index.html"
_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    # Scripts and styles come from files of this service, calls go to it, and no page may frame the console.
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # A browser asks each time whether the file is still the same: names do not change with the release.
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}


class StaticFile(NamedTuple):
    """A file with its compressed form; `digest` is that of the content."""

    content: bytes
    compressed: bytes
    media_type: str
    digest: str


@cache
def static_files() -> dict[str, StaticFile]:
    """Read the files by name, at the first call for one: a worker that nobody looks at holds none."""
    read: dict[str, StaticFile] = {}
    for entry in files("service.console").joinpath("static").iterdir():
        suffix = f".{entry.name.rpartition('.')[2]}"
        if suffix in _MEDIA_TYPES:
            content = entry.read_bytes()
            digest = blake2b(content, digest_size=16).hexdigest()
            read[entry.name] = StaticFile(content, gzip.compress(content, mtime=0), _MEDIA_TYPES[suffix], digest)
    return read


@router.get("/console")
async def redirect() -> Response:
    """Send the browser to the folder, from which the page's addresses count. The address is relative for a sub-path."""
    return RedirectResponse("console/")


@router.get("/console/")
async def page(
    accept_encoding: Annotated[str, Header()] = "", if_none_match: Annotated[str, Header()] = ""
) -> Response:
    """The page."""
    return _response(_PAGE, accept_encoding, if_none_match)


@router.get("/console/{name}")
async def file(
    name: str, accept_encoding: Annotated[str, Header()] = "", if_none_match: Annotated[str, Header()] = ""
) -> Response:
    """A file of the page."""
    return _response(name, accept_encoding, if_none_match)


def _response(name: str, accept_encoding: str, if_none_match: str) -> Response:
    """Return a file, compressed if the browser takes that, or 304 if the browser has it. Raises NotFound."""
    static = static_files().get(name)
    if static is None:
        raise NotFound(f"the console has no file {name}; it begins at /console/")
    compressed = _takes_gzip(accept_encoding)
    tag = f'"{static.digest}{"-gzip" if compressed else ""}"'
    headers = _HEADERS | {"ETag": tag}
    if tag in (entity_tag.strip().removeprefix("W/") for entity_tag in if_none_match.split(",")):
        return Response(status_code=304, headers=headers)
    if not compressed:
        return Response(static.content, headers=headers, media_type=static.media_type)
    return Response(static.compressed, headers=headers | {"Content-Encoding": "gzip"}, media_type=static.media_type)


def _takes_gzip(accept_encoding: str) -> bool:
    """Return whether a browser takes gzip: it is listed, and not with the weight 0."""
    for entry in accept_encoding.lower().split(","):
        coding, _, weight = entry.replace(" ", "").partition(";")
        if coding == "gzip":
            return weight.strip("0.") != "q="
    return False
