"""Fixtures of the load test's own tests.

They give a real service to load, a folder with ids, and the command itself.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from child_process import child

from service.sample.calls import wait_until_ready
from service.sample.embedded_redis import free_port

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """The result of one run of the command: exit code, everything printed, the JSON summary and the HTML report."""

    code: int
    text: str
    summary: dict[str, Any]
    report: str

    @property
    def phase(self) -> dict[str, Any]:
        return self.summary["phases"][-1]


@pytest.fixture(scope="session")
def ids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 users and 1000 items; user 7 and item 42 are by far the most active."""
    folder = tmp_path_factory.mktemp("ids")
    pyarrow.parquet.write_table(pyarrow.table({"user_id": [str(n) for n in range(400)]}), folder / "users.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"item_id": list(range(1000))}), folder / "items.parquet")
    behaviours = {"user_id": ["7"] * 9 + ["8"], "item_id": [42] * 9 + [43]}
    pyarrow.parquet.write_table(pyarrow.table(behaviours), folder / "behaviours.parquet")
    return folder


@pytest.fixture
def start_service() -> Iterator[Callable[[str], str]]:
    """Start the stub with a fault and return its address."""
    program = str(Path(__file__).with_name("stub_service.py"))
    with ExitStack() as started:

        def start(fault: str) -> str:
            port = free_port()
            process = started.enter_context(child([sys.executable, program, str(port), fault]))
            url = f"http://127.0.0.1:{port}"
            wait_until_ready(process, f"{url}/openapi.json", 60, "the stub service")
            return url

        yield start


@pytest.fixture
def run_loadtest(ids: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """Run `funnelrank loadtest` in a process of its own, because importing locust patches the process."""

    def run(url: str, *flags: str) -> Outcome:
        summary = tmp_path / "summary.json"
        report = tmp_path / "report.html"
        files = ["--data", str(ids), "--summary", str(summary), "--report", str(report)]
        pace = ["--warmup-s", "0", "--duration-s", "2", "--rate", "50", "--users", "16", "--candidates", "20"]
        environment = {**os.environ, "FUNNELRANK_ADMIN_TOKEN": "let-me-in"}
        command = [sys.executable, "-m", "funnelrank", "loadtest", "--url", url, *files, *pace, *flags]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        figures = json.loads(summary.read_text()) if summary.exists() else {}
        return Outcome(
            done.returncode, done.stdout + done.stderr, figures, report.read_text() if report.exists() else ""
        )

    return run
