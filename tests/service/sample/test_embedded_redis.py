"""Tests the embedded Redis: its port is free, and stays free until Redis uses it."""

import socket
from pathlib import Path

import pytest

from service.sample import embedded_redis
from service.sample.embedded_redis import EmbeddedRedis, free_port


def test_a_free_port_is_none_that_the_kernel_gives_to_outgoing_connections() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = {free_port() for _ in range(200)}
    assert max(ports) < lowest
    assert len(ports) > 150


@pytest.mark.parametrize("text", ["", "1024 65535\n", "no range\n"])
def test_without_room_below_that_range_the_kernel_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(embedded_redis, "_EPHEMERAL_RANGE", tmp_path / "range")
    (tmp_path / "range").write_text(text)
    assert free_port() > 1024


def test_a_port_on_which_somebody_listens_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(embedded_redis.random, "randrange", lambda *_: listener.getsockname()[1])
        assert free_port() != listener.getsockname()[1]


def test_a_killed_redis_starts_again_on_its_port() -> None:
    with EmbeddedRedis() as server:
        port = server.port
        server.kill()
        server.start()
        assert (server.port, server.pid > 0) == (port, True)
