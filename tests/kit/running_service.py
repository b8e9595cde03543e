"""Runs a service in processes of its own, and waits for its effects."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fresh_http
import httpx
from child_process import end

from service.sample.calls import wait_until_ready
from service.sample.embedded_redis import free_port

ROOT = Path(__file__).parents[2]

# Given as missing, so that no answer is degraded because the request does not give it.
UNKNOWN_CONTEXT = {"tab": None, "hour": None}

# Limits that even a busy machine does not reach. A test of a limit sets its own.
ROOM = {"redis_timeout_ms": 5000, "default_timeout_ms": 30_000, "max_wait_ms": 20_000}
ROOM_IN_ENVIRONMENT = {f"FUNNELRANK_{name.upper()}": str(value) for name, value in ROOM.items()}


class Server:
    """A service that runs in processes of its own and is called over HTTP."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.log = log
        self.url = f"http://127.0.0.1:{port}"
        self.http = fresh_http.client(base_url=self.url)

    def rank(self, candidates: list[Any], user_id: str = "712", **more: Any) -> httpx.Response:
        body = {"user_id": user_id, "candidates": candidates, "context": UNKNOWN_CONTEXT}
        return self.http.post("/rank", json=body | more)

    def rank_too_late(self, candidates: list[Any], user_id: str = "712") -> httpx.Response:
        """Send a ranking whose deadline passes while its body is on its way, however fast the machine is."""
        body = {"user_id": user_id, "candidates": candidates, "context": UNKNOWN_CONTEXT, "timeout_ms": 1}
        content = json.dumps(body).encode()

        def in_two_pieces() -> Iterator[bytes]:
            yield content[:-1]
            time.sleep(0.01)
            yield content[-1:]

        return self.http.post("/rank", content=in_two_pieces())

    def put(self, path: str, body: Any, token: str = "secret") -> httpx.Response:
        return self.http.put(path, json=body, headers={"Authorization": f"Bearer {token}"})

    def stop(self) -> int:
        self.http.close()
        return end(self.process)

    @property
    def log_lines(self) -> str:
        return self.log.read_text()


def wait_until(holds: Callable[[], bool], seconds: float = 60, recovery: str = "") -> None:
    """Wait for an effect of another process.

    `recovery` says from which event on, if the time is to be printed at the end.
    """
    started = time.monotonic()
    while not holds():
        assert time.monotonic() < started + seconds, "it did not come about"
        time.sleep(0.02)
    if recovery:
        recovered(recovery, started)


RECOVERIES: list[tuple[str, float]] = []


def recovered(fault: str, since: float) -> None:
    """Record that the state before a fault is restored; the time that it took is printed at the end."""
    RECOVERIES.append((fault, time.monotonic() - since))


@contextmanager
def serving(
    folder: Path,
    registry: Path,
    redis_url: str,
    wait_for: str | None = "/readyz",
    root: Path = ROOT,
    setup: str = "",
    **settings: Any,
) -> Iterator[Server]:
    """`python -m service serve` of the code in `root`; `settings` are FUNNELRANK_* by their lower-case names.

    The first process executes the statements `setup` before it serves. Sockets and files that the service leaves to the
    garbage collector fail the test.
    """
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("FUNNELRANK_", "PROMETHEUS_"))}
    chosen = {
        "port": port,
        "registry": registry,
        "redis_url": redis_url,
        "rollout_poll_ms": 50,
        "admin_token": "secret",
        "drain_ms": 50,
    }
    chosen |= ROOM | settings
    environment |= {f"FUNNELRANK_{k.upper()}": str(v) for k, v in chosen.items()}
    environment["PYTHONWARNINGS"] = "always::ResourceWarning"
    log = folder / f"serve-{port}.log"
    with log.open("wb") as sink:
        serve = f"{setup}\nimport sys\nfrom funnelrank.main import main\nsys.exit(main(['serve']))"
        command = [sys.executable, "-c", serve] if setup else [sys.executable, "-m", "service", "serve"]
        process = subprocess.Popen(command, cwd=root, env=environment, stderr=sink, stdout=sink)
    server = Server(process, port, log)
    try:
        if wait_for is not None:
            wait_until_ready(process, f"{server.url}{wait_for}", 60, f"the service of {log}")
        if wait_for == "/readyz":
            ready = f"funnelrank_ready_workers {float(chosen.get('workers', 1))}"
            wait_until(lambda: ready in server.http.get("/metrics").text, seconds=60)
        yield server
    finally:
        server.stop()
    assert "ResourceWarning" not in server.log_lines
