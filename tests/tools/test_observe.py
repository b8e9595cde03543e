"""Tests `make observe`: Prometheus has the service's series and every alert, and everything ends together."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from running_service import wait_until

from service.sample.calls import call
from service.sample.embedded_redis import free_port
from tools.observe import RULES

ROOT = Path(__file__).parents[2]


def run(*options: str, path: str | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tools.observe", *options]
    environment = clean() | ({"PATH": path} if path is not None else {})
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("FUNNELRANK_")}


def test_a_missing_prometheus_is_named_with_its_package(tmp_path: Path) -> None:
    done = run(path=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "error: prometheus is missing: install it with `sudo apt-get install prometheus`\n"


@pytest.mark.tools
def test_everything_is_observed_and_ends_with_one_signal() -> None:
    port = free_port()
    prometheus_port = free_port()
    command = [sys.executable, "-m", "tools.observe", "--port", str(port), "--prometheus-port", str(prometheus_port)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=clean(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    address = f"http://127.0.0.1:{prometheus_port}"
    try:
        wait_until(lambda: call("GET", f"{address}/-/ready")[0] == 200, seconds=180)
        query = f'{address}/api/v1/query?query=funnelrank_requests_total{{route="/rank",outcome="ok",job="funnelrank"}}'
        wait_until(lambda: bool(answer(query.replace('"', "%22").replace("{", "%7B").replace("}", "%7D"))["result"]))
        rules = answer(f"{address}/api/v1/rules")["groups"]
        listed = [rule["name"] for group in rules for rule in group["rules"] if rule["type"] == "alerting"]
        document = yaml.safe_load(RULES.read_text())
        assert listed == [rule["alert"] for group in document["groups"] for rule in group["rules"] if "alert" in rule]
        # The port of another program is named, and that program goes on.
        taken = run("--port", str(free_port()), "--prometheus-port", str(prometheus_port))
        assert (taken.returncode, taken.stderr.split(";")[0]) == (1, f"error: the port {prometheus_port} is in use")
    finally:
        # As Ctrl-C in a terminal: to the whole group.
        os.killpg(process.pid, signal.SIGINT)
        code = process.wait(timeout=90)
    assert code == 0
    for ended in (f"http://127.0.0.1:{port}/livez", f"{address}/-/ready"):
        assert call("GET", ended)[0] == 0
    wait_until(lambda: not has_processes(process.pid), seconds=10)


def has_processes(group: int) -> bool:
    """Whether a process of a process group lives."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.tools
def test_it_ends_by_itself_after_its_time() -> None:
    done = run("--port", str(free_port()), "--prometheus-port", str(free_port()), "--minutes", "0.01", "--rate", "50")
    assert done.returncode == 0, done.stderr
    assert "Ctrl-C stops everything; it ends by itself after 0.01 minutes." in done.stdout


def answer(url: str) -> Any:
    status, body = call("GET", url)
    return body["data"] if status == 200 else {"result": []}
