"""Tests what is said about a body that cannot be read, without a server."""

import bz2
import gzip
import zlib

import pytest

from service.api.body import parse
from service.api.problems import MalformedJson
from service.api.routes.events import EventsRequest
from service.errors import InvalidRequest

BODY = b'{"events": [{"user_id": "1", "item_id": "1", "action": "click", "scene": "1", "timestamp": 1760000000000}]}'


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (gzip.compress(BODY, mtime=0), "the body is compressed; send it as it is, without a Content-Encoding"),
        (zlib.compress(BODY), "the body is compressed"),
        (zlib.compress(BODY, 1), "the body is compressed"),
        (zlib.compress(BODY, 9), "the body is compressed"),
        (b"\x28\xb5\x2f\xfd\x04\x00", "the body is compressed"),
        (b"\xef\xbb\xbf" + BODY, "byte order mark"),
        (BODY.decode().encode("utf-16-le"), "the body is UTF-16 or UTF-32"),
        (bz2.compress(BODY), "Invalid JSON"),
    ],
)
def test_a_body_that_is_no_text_is_told_what_it_is(body: bytes, words: str) -> None:
    with pytest.raises(MalformedJson) as error:
        parse(EventsRequest, body)
    assert words in error.value.detail


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            b'"click"',
            b'"' + b"x" * 513 + b'"',
            "events[0].action: a string of at most 512 characters, or an integer of",
        ),
        (
            b'"scene": "1"',
            b'"scene": 9223372036854775808',
            "events[0].scene: a string of at most 512 characters, or an",
        ),
        (b'"click"', b"1.5", "or an integer of at most 64 bits"),
        (b"1760000000000", b"1760000000", "; times are milliseconds since 1970, not seconds or microseconds"),
        (b"1760000000000", b"1760000000000000", "; times are milliseconds since 1970, not seconds or microseconds"),
    ],
)
def test_a_value_outside_its_limits_is_told_with_them(old: bytes, new: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        parse(EventsRequest, BODY.replace(old, new))
    assert message in str(error.value)
