"""Tests the log: one JSON object per line for any text, and no password in it."""

import json
import logging
import sys

import pytest

from service.log import JsonLines, without_password


def logged(message: str, *arguments: object, **fields: object) -> str:
    record = logging.LogRecord("funnelrank", logging.ERROR, "here.py", 1, message, arguments, None)
    record.fields = fields
    return JsonLines().format(record)


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:hush@host:6379/0",
        "rediss://:hush@host/0?ssl_cert_reqs=none",
        "redis://me:p@hush@host/0",
        "redis://me:a/hush@host/0",
        "redis+cluster://me:hush@a:1,b:2",
        "unix://me:hush@/tmp/redis.sock",
        "redis://host/0?username=me&password=hush",
        "rediss://host/0?ssl_password=hush&db=1",
    ],
)
def test_no_password_of_an_address_is_logged(url: str) -> None:
    assert "hush" not in without_password(f"cannot connect to {url} (refused)")
    assert "hush" not in logged("cannot connect to %s", url, reason=f"'{url}' is away")
    assert without_password(f"cannot connect to {url} (refused)").endswith(" (refused)")
    try:
        raise ValueError(url)
    except ValueError:
        record = logging.LogRecord("funnelrank", logging.ERROR, "here.py", 1, "failed", (), sys.exc_info())
    assert "hush" not in JsonLines().format(record)


def test_what_is_no_password_stays() -> None:
    for text in ("redis://host:6379/0", "mail me@example.com", "http://127.0.0.1:8000/docs", "1 @ 2"):
        assert without_password(text) == text


def test_no_text_breaks_a_line() -> None:
    odd = "a\nb\r\x1b[31m\u2028\ud800\x00汉"
    line = logged("%s", odd, path=odd)
    assert line.isascii() and line.isprintable()
    assert json.loads(line)["path"] == odd


def test_a_long_text_costs_no_more_than_its_length() -> None:
    """A pattern that starts anew at every character of a word would need minutes for this."""
    assert without_password("a" * 2_000_000 + "://") == "a" * 2_000_000 + "://"
