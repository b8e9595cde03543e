"""Tests what a newcomer does with the README alone: the chart on paper, the docs, the demo, a retrained model as a
canary in the console, and an alert that fires while Redis is away.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from child_process import child, end
from hurried_alerts import fires, prometheus
from rendered_chart import LEAST, rendered
from running_service import ROOM_IN_ENVIRONMENT, ROOT, wait_until

from service.sample.calls import call, wait_until_ready
from service.sample.embedded_redis import EmbeddedRedis, free_port
from tests.console.pages import Console, counted
from tools.docs_site.__main__ import main as build_docs

pytestmark = pytest.mark.tools
SAMPLE = ROOT / "sample"
MODEL = "kuairand-esmm-small"
LINE = "item_page"
ALERT = "FunnelrankStoreUnavailable"
REQUEST = json.loads((SAMPLE / "request.json").read_text()) | {"scene": LINE}


def clean() -> dict[str, str]:
    """The environment without settings of the service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FUNNELRANK_")}


def funnelrank(*arguments: str, **settings: str) -> None:
    """Run a command of the README in this tree."""
    command = [sys.executable, "-m", "funnelrank", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=clean() | settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@contextmanager
def demo(folder: Path, registry: Path, redis_url: str) -> Iterator[tuple[str, str]]:
    """`make demo` with a registry and a Redis of one's own: the addresses of the service and of the page."""
    port = free_port()
    page_port = free_port()
    command = [sys.executable, "-m", "tools.demo", "--port", str(port), "--page-port", str(page_port)]
    own = {
        "FUNNELRANK_REGISTRY": str(registry),
        "FUNNELRANK_REDIS_URL": redis_url,
        "FUNNELRANK_FUSION_FILE": str(SAMPLE / "fusion.yaml"),
    }
    with (folder / "log").open("wb") as log:
        environment = clean() | own | ROOM_IN_ENVIRONMENT
        program = child(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    with program as process:
        wait_until_ready(process, f"http://127.0.0.1:{page_port}/demo.json", 180, "the demo")
        yield f"http://127.0.0.1:{port}", f"http://127.0.0.1:{page_port}"
        assert end(process) == 0, (folder / "log").read_text()


def retrained(folder: Path, registry: Path) -> None:
    """Train the sample's small model again for an epoch, and publish it as version 2."""
    recipe = f"models/recipes/variants/{MODEL}.yaml"
    run = str(folder / "run")
    options = ["--threads", "1", "--seed", "2", "--reading-steps", "0"]
    for change in ("data.dir=sample/kuairand", "training.epochs=1", "training.evaluations_per_epoch=1"):
        options += ["--set", change]
    funnelrank("train", recipe, "--out", run, *options)
    funnelrank("export", run, "--registry", str(folder / "exported"), "--version", "1")
    bundle = str(folder / "exported" / MODEL / "1")
    funnelrank("declare", bundle, "sample/rule-features.yaml", "--registry", str(registry), "--version", "2")


def rank(service: str, user: str) -> Any:
    return call("POST", f"{service}/rank", REQUEST | {"user_id": user})


def test_the_manifests_are_valid_and_the_docs_build_without_a_warning(tmp_path: Path) -> None:
    from kubernetes_validate import validate

    for document in rendered(LEAST):
        validate(document, "1.37", strict=True)
    assert build_docs(["--out", str(tmp_path / "site"), "--version", "1.0.0"]) == 0


def test_a_retrained_model_is_a_canary_in_the_console_and_a_lost_redis_an_alert(tmp_path: Path, browser: Any) -> None:
    registry = tmp_path / "registry"
    shutil.copytree(SAMPLE / "registry", registry)
    with EmbeddedRedis() as redis, demo(tmp_path, registry, redis.url) as (service, address):
        # The demo ranks.
        page = browser.new_page()
        page.goto(address)
        page.locator("#cards li").first.wait_for()
        page.close()

        # The retrained model gets a part of the users of one scene, and the console shows how many rankings they had.
        retrained(tmp_path, registry)
        canary = ["--line", LINE, "--canary", f"{MODEL}/2", "--percent", "50"]
        funnelrank("rollout", *canary, "--registry", str(registry))
        wait_until(lambda: any(rank(service, str(user))[1]["model"]["version"] == "2" for user in range(20)))
        metrics = call("GET", f"{service}/metrics")[1]
        console = Console(browser.new_page(), SimpleNamespace(server=SimpleNamespace(url=service)))  # type: ignore[arg-type]
        console.page.goto(f"{service}/console/#/versions?line={LINE}")
        versions = f"Versions of the line {LINE}"
        wait_until(lambda: console.column(versions, "canary")["Version"] == f"{MODEL}/2")
        n = counted(metrics, "funnelrank_rankings_total", line=LINE, role="canary", result="ok")
        assert n > 0
        wait_until(lambda: console.column(versions, "canary")["Rankings"] == str(n))

        # Redis stops: the alert fires, and the console says so. Redis is back with its rows: it clears.
        with prometheus(tmp_path, service.removeprefix("http://"), ALERT) as observer:

            def fires_in_traffic() -> bool:
                rank(service, "712")
                return fires(observer, ALERT)

            assert not fires_in_traffic()
            redis.kill()
            wait_until(fires_in_traffic)
            console.page.get_by_role("link", name="Now").click()
            console.wait_for_text("does not answer")
            redis.start()
            tables = tmp_path / "tables"
            tables.mkdir()
            for name in ("users", "items"):
                shutil.copy(SAMPLE / "kuairand" / f"{name}.parquet", tables)
            funnelrank("load", "--restart", str(tables), "--registry", str(registry), FUNNELRANK_REDIS_URL=redis.url)
            wait_until(lambda: not fires_in_traffic())
            wait_until(lambda: console.page.get_by_text("does not answer").count() == 0)
        console.page.close()
        assert console.faults == []
