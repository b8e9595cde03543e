"""Tests with the tools of operators: Redis 7 of Debian, and promtool's check of the metrics."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from child_process import child
from running_service import ROOM_IN_ENVIRONMENT, wait_until

from service.sample.calls import call, wait_until_ready
from service.sample.embedded_redis import free_port

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.tools


@pytest.fixture(scope="module")
def redis_7() -> Iterator[str]:
    """The address of Debian's redis-server, without persistence."""
    program = shutil.which("redis-server", path="/usr/bin")
    assert program is not None, "make test-tools installs it"
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"]
        with child([program, *options], stdout=subprocess.DEVNULL) as process:
            wait_until(lambda: answers(port) or process.poll() is not None)
            yield f"redis://127.0.0.1:{port}/0"


def answers(port: int) -> bool:
    """Whether somebody listens on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def sample(redis_7: str) -> Iterator[str]:
    """The address of the sample's service on that Redis."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FUNNELRANK_")}
    environment |= ROOM_IN_ENVIRONMENT | {"FUNNELRANK_REDIS_URL": redis_7}
    command = [sys.executable, "-m", "funnelrank", "run-sample", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with child(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        wait_until_ready(process, f"{url}/readyz", 120)
        yield url


def test_the_sample_is_ranked_on_redis_7(redis_7: str, sample: str) -> None:
    with redis.Redis.from_url(redis_7) as client:
        assert str(client.info("server")["redis_version"]).startswith("7.")
    status, answer = call("POST", f"{sample}/rank", (ROOT / "sample" / "request.json").read_bytes())
    assert status == 200
    assert answer["degraded"] == []


def test_promtool_finds_nothing_to_say_about_the_metrics(sample: str) -> None:
    call("POST", f"{sample}/rank", (ROOT / "sample" / "request.json").read_bytes())
    status, metrics = call("GET", f"{sample}/metrics")
    assert status == 200
    assert "funnelrank_" in metrics
    done = subprocess.run(["promtool", "check", "metrics"], input=metrics, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0
