"""Owns the servers that are measured, each a uvicorn with one worker in a process of its own."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.measuring.cpu import cpu_seconds, memory_mib
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
    """`python -m service serve`; `settings` are FUNNELRANK_* by their lower-case names."""
    patient = {
        "drain_ms": 0,
        "log_level": "warning",
        "redis_timeout_ms": 5000,
    }  # a ranking made without the store would cost less
    chosen = patient | {"registry": registry, "redis_url": redis_url, "workers": workers} | settings
    environment = {f"FUNNELRANK_{name.upper()}": str(value) for name, value in chosen.items()}
    with _running("service", [sys.executable, "-m", "service", "serve"], environment, "/readyz") as server:
        yield server


@contextmanager
def application(name: str, target: str, environment: Mapping[str, str]) -> Iterator[Server]:
    """uvicorn with an application of this package, started as people start theirs."""
    with _running(name, [sys.executable, "-m", "uvicorn", target, *_UVICORN], environment, "/openapi.json") as server:
        yield server


@contextmanager
def _running(name: str, command: list[str], environment: Mapping[str, str], ready: str) -> Iterator[Server]:
    port = free_port()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FUNNELRANK_", "PROMETHEUS_"))}
    own = {"FUNNELRANK_PORT": str(port), "UVICORN_PORT": str(port), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=kept | own | dict(environment))
    try:
        _wait(process, f"http://127.0.0.1:{port}{ready}", name)
        yield Server(name, process.pid, port)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(process: "subprocess.Popen[bytes]", url: str, name: str) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended with exit code {process.returncode} before it was ready")
        try:
            with urllib.request.urlopen(url, timeout=2):  # nosec B310 # the URL is the one that we serve on
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"{name} was not ready after {_START_SECONDS} s")
