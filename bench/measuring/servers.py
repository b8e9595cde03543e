"""Starts the servers under test, each a uvicorn with one worker in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.measuring.cpu import cpu_seconds, memory_mib
from service.sample.calls import wait_until_ready
from service.sample.embedded_redis import free_port

_START_SECONDS = 60
_UVICORN = ["--workers", "1", "--loop", "uvloop", "--http", "httptools", "--log-level", "warning", "--no-access-log"]


@dataclass(frozen=True)
class Server:
    """A process that answers on `port`."""

    name: str
    pid: int
    port: int

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

    def memory_mib(self) -> dict[str, float]:
        return memory_mib(self.pid)


@contextmanager
def service(registry: Path, redis_url: str, workers: int = 1, **settings: object) -> Iterator[Server]:
    """Start `funnelrank serve`; `settings` are FUNNELRANK_* by their lower-case names."""
    patient = {
        "drain_ms": 0,
        "log_level": "warning",
        "redis_timeout_ms": 5000,
    }  # a ranking made without the store would cost less
    chosen = patient | {"registry": registry, "redis_url": redis_url, "workers": workers} | settings
    environment = {f"FUNNELRANK_{name.upper()}": str(value) for name, value in chosen.items()}
    with _running("service", [sys.executable, "-m", "funnelrank", "serve"], environment, "/readyz") as server:
        yield server


@contextmanager
def application(name: str, target: str, environment: Mapping[str, str]) -> Iterator[Server]:
    """Start uvicorn with an application of this package."""
    with _running(name, [sys.executable, "-m", "uvicorn", target, *_UVICORN], environment, "/openapi.json") as server:
        yield server


@contextmanager
def free_server(name: str, command: Sequence[str], environment: Mapping[str, str], ready: str) -> Iterator[Server]:
    """Start a server of another kind: `command` has {port} where the port belongs, and it answers at `ready`."""
    port = free_port()
    with _running(name, [part.format(port=port) for part in command], environment, ready, port) as server:
        yield server


@contextmanager
def _running(
    name: str, command: list[str], environment: Mapping[str, str], ready: str, chosen: int | None = None
) -> Iterator[Server]:
    port = chosen or free_port()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("FUNNELRANK_", "PROMETHEUS_"))}
    own = {"FUNNELRANK_PORT": str(port), "UVICORN_PORT": str(port), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=inherited | own | dict(environment))
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}{ready}", _START_SECONDS, name)
        yield Server(name, process.pid, port)
    finally:
        process.terminate()
        process.wait(timeout=30)
