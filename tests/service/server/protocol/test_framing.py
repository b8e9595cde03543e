"""Tests how received bytes are cut: no piece has two heads, and the number of pieces is proportional to the bytes."""

import pytest

from service.server.protocol.framing import Framing

HEAD = b"POST /rank HTTP/1.1\r\nA: b\r\n\r\n"


def begun(name: bytes, value: bytes) -> Framing:
    """The framing of a request with a complete head of one header."""
    framing = Framing()
    framing.begin()
    framing.take_header(name, value)
    framing.complete_head()
    return framing


def pieces(framing: Framing, data: bytes) -> list[bytes]:
    """Cut data that all belongs to one head or one body into pieces."""
    parts = []
    start = 0
    while start < len(data):
        end = framing.end_of_piece(data, start)
        parts.append(data[start:end])
        start = end
    return parts


def test_every_head_is_a_piece_of_its_own() -> None:
    assert pieces(Framing(), HEAD * 3 + HEAD[:10]) == [HEAD, HEAD, HEAD, HEAD[:10]]


def test_a_body_ends_where_its_length_says() -> None:
    framing = begun(b"content-length", b"5")
    assert framing.end_of_piece(b"12345" + HEAD, 0) == 5
    framing.take_body(3)
    assert framing.end_of_piece(b"45" + HEAD, 0) == 2


@pytest.mark.parametrize("content", [b"x", b"\r\n", b"\r\n\r\n", HEAD, b"0\r\n\r\n"])
@pytest.mark.parametrize("framed", [(b"transfer-encoding", b"chunked"), (b"content-length", b"100000000")])
def test_the_number_of_pieces_of_a_body_does_not_depend_on_its_content(
    content: bytes, framed: tuple[bytes, bytes]
) -> None:
    counts = []
    for size in (1 << 18, 1 << 19):
        framing = begun(*framed)
        data = (content * (size // len(content) + 1))[:size]
        counts.append(len(pieces(framing, data)))
    assert counts[1] == 2 * counts[0]
    assert counts[0] <= (1 << 18) // 128


def test_empty_lines_are_skipped_at_once() -> None:
    data = b"\r\n" * 100_000 + HEAD
    assert Framing().skip_empty_lines(data, 0) == 200_000
    assert Framing().skip_empty_lines(HEAD, 0) == 0


def test_what_is_not_content_of_a_chunked_body_is_bounded() -> None:
    framing = begun(b"transfer-encoding", b"chunked")
    assert all(framing.count(1000, was_in_head=False) for _ in range(65))
    assert not framing.count(1000, was_in_head=False)
    framing.take_body(1)
    assert framing.count(1000, was_in_head=False)
