"""Tests how the service gives out the console: types, security policy, compression, caching, paths."""

import gzip
from typing import Any

import httpx
import pytest
from running_service import ROOT

STATIC = ROOT / "service" / "console" / "static"
TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
PLAIN = {"Accept-Encoding": "identity"}


def get(server: Any, path: str, **headers: str) -> httpx.Response:
    answer: httpx.Response = server.http.get(path, headers=PLAIN | headers)
    return answer


def test_every_file_comes_with_its_type_and_a_strict_policy(server: Any) -> None:
    for file in STATIC.iterdir():
        path = "/console/" if file.name == "index.html" else f"/console/{file.name}"
        answer = get(server, path)
        assert (answer.status_code, answer.content) == (200, file.read_bytes())
        assert answer.headers["content-type"] == TYPES.get(file.suffix[1:], "image/svg+xml")
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; ")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_folder_is_reached_by_a_relative_address(server: Any) -> None:
    answer = get(server, "/console")
    assert (answer.status_code, answer.headers["location"]) == (307, "console/")


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [("gzip, deflate, br", True), ("br;q=1, GZIP; q=0.5", True), ("gzip;q=0", False), ("br", False), ("", False)],
)
def test_it_is_compressed_for_browsers_that_take_it(server: Any, accepted: str, compressed: bool) -> None:
    with server.http.stream("GET", "/console/console.js", headers={"Accept-Encoding": accepted}) as answer:
        raw = b"".join(answer.iter_raw())
    assert (answer.headers.get("content-encoding") == "gzip") == compressed
    assert answer.headers["vary"] == "Accept-Encoding"
    assert (gzip.decompress(raw) if compressed else raw) == (STATIC / "console.js").read_bytes()
    if compressed:
        assert len(raw) < (STATIC / "console.js").stat().st_size / 2


def test_a_browser_that_has_a_file_is_told_so(server: Any) -> None:
    first = get(server, "/console/console.css")
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    for given in (tag, f"W/{tag}", f'"other", {tag}'):
        again = get(server, "/console/console.css", **{"If-None-Match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert get(server, "/console/console.css", **{"If-None-Match": '"other"'}).status_code == 200
    other = server.http.get("/console/console.css", headers={"Accept-Encoding": "gzip", "If-None-Match": tag})
    assert other.status_code == 200, "the compressed form has a tag of its own"


@pytest.mark.parametrize("path", ["nothing.js", "%2e%2e%2fsettings.py", "static/index.html", "__init__.py", ".."])
def test_nothing_else_is_given_out(server: Any, path: str) -> None:
    # httpx would take `..` away, as browsers do; raw paths are sent as they are.
    answer = server.http.request(
        "GET", httpx.URL(f"{server.url}/console/").copy_with(raw_path=f"/console/{path}".encode())
    )
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_the_page_is_no_part_of_the_api(server: Any) -> None:
    assert not [path for path in server.http.get("/openapi.json").json()["paths"] if "console" in path]
    refused = server.http.post("/console/")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
