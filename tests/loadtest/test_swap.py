"""Tests swaps under load, with the real service on the sample.

Two workers change models every half second and no request fails.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from child_process import child
from running_service import ROOM_IN_ENVIRONMENT

from loadtest.swaps.republish import republish
from service.sample.calls import wait_until_ready
from service.sample.embedded_redis import free_port

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "sample"


def two_versions(registry: Path) -> list[str]:
    """Copy the sample's registry and publish its live bundle once more; return both as NAME/VERSION."""
    shutil.copytree(SAMPLE / "registry", registry)
    live = json.loads((registry / "rollout.json").read_text())["stable"]
    copy = republish(registry / live["name"] / live["version"], "once-more")
    return [f"{live['name']}/{live['version']}", f"{live['name']}/{copy.name}"]


@contextmanager
def sample_service(registry: Path, log: Path) -> Iterator[str]:
    port = free_port()
    settings = {"REGISTRY": str(registry), "WORKERS": "2", "ADMIN_TOKEN": "let-me-in", "ROLLOUT_POLL_MS": "100"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FUNNELRANK_")}
    environment |= ROOM_IN_ENVIRONMENT | {f"FUNNELRANK_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "service", "run-sample", "--sample", str(SAMPLE), "--port", str(port)]
    with log.open("wb") as sink, child(command, cwd=ROOT, env=environment, stdout=sink, stderr=sink) as process:
        wait_until_ready(process, f"http://127.0.0.1:{port}/readyz", 120, str(log))
        yield f"http://127.0.0.1:{port}"


@pytest.mark.slow
def test_no_request_fails_while_the_model_is_swapped(run_loadtest: Callable[..., Any], tmp_path: Path) -> None:
    first, second = two_versions(tmp_path / "registry")
    with sample_service(tmp_path / "registry", tmp_path / "service.log") as url:
        swap = ["--swap", first, "--swap", second, "--swap-every-s", "0.5"]
        outcome = run_loadtest(
            url, "--data", str(SAMPLE / "kuairand"), "--rate", "30", "--duration-s", "10", "--candidates", "50", *swap
        )
    assert outcome.code == 0, outcome.text
    assert outcome.phase["failures"] == 0
    assert outcome.phase["models"].keys() == {first, second}
    assert outcome.summary["swaps"]["done"] >= 10


@pytest.mark.slow
def test_swapping_again_and_again_leaves_the_memory_where_it_was(tmp_path: Path) -> None:
    first, second = two_versions(tmp_path / "registry")
    with sample_service(tmp_path / "registry", tmp_path / "service.log") as url:
        command = [
            "--url",
            url,
            "--token",
            "let-me-in",
            "--model",
            first.partition("/")[0],
            "--versions",
            *(v.partition("/")[2] for v in (second, first)),
        ]
        done = subprocess.run(
            [sys.executable, "-m", "loadtest.swaps.cost", *command, "--swaps", "16", "--calm", "300"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["memory_after_bytes"] < 1.2 * report["memory_before_bytes"], report
