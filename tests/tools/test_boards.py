"""Tests the Grafana boards: the files are those of the code, and a real Prometheus has series for every query."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from child_process import child

from service.sample.calls import call, wait_until_ready
from service.sample.embedded_redis import free_port
from tools.boards.definitions import BOARDS, queries
from tools.boards.writing import FOLDER, written

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.tools
RULES = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yaml").read_text())
REQUEST = json.loads((ROOT / "sample" / "request.json").read_text())
TOKEN = "secret"


def test_the_boards_are_those_of_the_code() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {board.name for board in BOARDS}
    for board in BOARDS:
        assert (FOLDER / f"{board.name}.json").read_text() == written(board), "run `python -m tools.boards`"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the sample's service with two workers, a canary, a shadow and an exposure log."""
    folder = tmp_path_factory.mktemp("boards")
    registry = folder / "registry"
    shutil.copytree(ROOT / "sample" / "registry", registry)
    live = json.loads((registry / "rollout.json").read_text())["stable"]
    bundle = registry / live["name"] / live["version"]
    for version in ("canary", "shadow"):
        command = [sys.executable, "-m", "funnelrank", "republish", str(bundle), version]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    port = free_port()
    settings = {
        "REGISTRY": registry,
        "WORKERS": 2,
        "ADMIN_TOKEN": TOKEN,
        "EXPOSURE_LOG": folder / "log",
        "ROLLOUT_POLL_MS": 50,
        "FUSION_FILE": ROOT / "sample" / "fusion.yaml",
    }
    (folder / "log").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FUNNELRANK_")}
    environment |= {f"FUNNELRANK_{name}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "funnelrank", "run-sample", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with child(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        wait_until_ready(process, f"{url}/readyz", 120)
        versions: dict[str, Any] = {
            "canary": {"name": live["name"], "version": "canary", "percent": 50},
            "shadow": {"name": live["name"], "version": "shadow"},
        }
        assert call("PUT", f"{url}/models/rollout", {"stable": live, **versions}, TOKEN, 60)[0] == 200
        yield url


@pytest.fixture(scope="module")
def prometheus(service: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Prometheus that scrapes the service every second and has its rules."""
    folder = tmp_path_factory.mktemp("prometheus")
    document = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ROOT / "deploy" / "prometheus" / "rules.yaml")],
        "scrape_configs": [
            {"job_name": "funnelrank", "static_configs": [{"targets": [service.removeprefix("http://")]}]}
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(document))  # JSON is YAML
    port = free_port()
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    options.append(f"--web.listen-address=127.0.0.1:{port}")
    url = f"http://127.0.0.1:{port}"
    with child(["prometheus", *options], stderr=subprocess.DEVNULL) as process:
        wait_until_ready(process, f"{url}/-/ready", 60)
        yield url


def series(prometheus: str, query: str) -> list[Any]:
    """The series of a query now."""
    status, answer = call("GET", f"{prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": query}))
    assert status == 200, answer
    result: list[Any] = answer["data"]["result"]
    return result


def drive(service: str, moment: int) -> None:
    """Rankings of known and unknown users, one that misses its deadline, and an event."""
    for user in (REQUEST["user_id"], f"unknown-{moment}", f"other-{moment}"):
        call("POST", f"{service}/rank", REQUEST | {"user_id": user})
    call("POST", f"{service}/rank", REQUEST | {"timeout_ms": 1, "candidates": [str(i) for i in range(2000)]})
    event = {"user_id": f"user-{moment}", "item_id": "1", "action": "click", "timestamp": int(time.time() * 1000)}
    call("POST", f"{service}/events", {"events": [event]})


def drive_until_known(service: str, prometheus: str, queries: dict[str, str]) -> None:
    """Drive the service until every query has a series. Prometheus computes the recording rules every 30 s."""
    end = time.monotonic() + 120
    moment = 0
    while queries:
        assert time.monotonic() < end, f"no series: {queries}"
        drive(service, moment)
        moment += 1
        queries = {where: query for where, query in queries.items() if not series(prometheus, query)}


def test_every_query_of_every_board_has_a_series(service: str, prometheus: str) -> None:
    asked = {where: query.replace("$__rate_interval", "10s").replace("$job", ".*") for where, query in queries()}
    assert len(asked) > 30
    drive_until_known(service, prometheus, asked)


def test_the_recording_rules_are_computed(service: str, prometheus: str) -> None:
    names = [rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule]
    assert len(names) == 7
    drive_until_known(service, prometheus, {name: name for name in names})
