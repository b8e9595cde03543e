"""Tests the soak in its short form: everything at once for a minute, and no answer is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest
from running_service import serving
from synthetic_bundle import go_live, publish

from service.callers.document import CallerRole, add_caller
from service.sample.embedded_redis import EmbeddedRedis

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("minutes", [1, pytest.param(2, marks=pytest.mark.full)])
def test_minutes_of_everything_leave_no_wrong_answer_and_nothing_growing(tmp_path: Path, minutes: int) -> None:
    registry = tmp_path / "registry"
    publish(registry, "1")
    go_live(registry, "1")
    for version in ("2", "3"):
        publish(registry, version, bias=0.05 * float(version))
    # Rankings and events come with a caller's key, and need one.
    key = add_caller(registry, "soak", CallerRole.WRITE, None, "test")
    with (
        EmbeddedRedis() as own,
        serving(tmp_path, registry, own.url, workers=2, redis_timeout_ms=200, max_wait_ms=5000) as server,
    ):
        command = [
            sys.executable,
            "-m",
            "loadtest.soak",
            "--url",
            server.url,
            "--token",
            "secret",
            "--key",
            key,
            "--bundle",
            str(registry / "synthetic" / "1"),
        ]
        done = subprocess.run(
            [*command, "--minutes", str(minutes), "--fault-every-s", str(8 * minutes), "--redis-pid", str(own.pid)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=400,
        )
        print(done.stdout, done.stderr)
        assert done.returncode == 0, done.stdout + done.stderr
