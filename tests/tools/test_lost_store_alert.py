"""Tests one alert in a real Prometheus: it fires when a real Redis is stopped, and clears when it is back."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from running_service import serving, wait_until

from service.sample.calls import call, wait_until_ready
from service.sample.embedded_redis import EmbeddedRedis, free_port
from tools.observe import RULES

ROOT = Path(__file__).parents[2]
ALERT = "FunnelrankStoreUnavailable"
pytestmark = pytest.mark.tools


def hurried_rule() -> dict[str, object]:
    """The alert with its expression, over 10 s instead of 5 minutes, and without its minute of waiting."""
    document = yaml.safe_load(RULES.read_text())
    (rule,) = [rule for group in document["groups"] for rule in group["rules"] if rule.get("alert") == ALERT]
    assert rule["expr"].count("[5m]") == 1
    return rule | {"expr": rule["expr"].replace("[5m]", "[10s]"), "for": "1s"}


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """The address of a Prometheus that scrapes the target every second and has the hurried rule."""
    (folder / "rules.yaml").write_text(json.dumps({"groups": [{"name": "hurried", "rules": [hurried_rule()]}]}))
    document = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": [{"job_name": "funnelrank", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(document))  # JSON is YAML
    port = free_port()
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    options.append(f"--web.listen-address=127.0.0.1:{port}")
    process = subprocess.Popen(["prometheus", *options], stderr=subprocess.DEVNULL)
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}/-/ready", 60, "Prometheus")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def load(tables: Path, registry: Path, redis_url: str) -> None:
    settings = {"FUNNELRANK_REGISTRY": str(registry), "FUNNELRANK_REDIS_URL": redis_url}
    command = [sys.executable, "-m", "funnelrank", "load", "--restart", str(tables)]
    subprocess.run(command, cwd=ROOT, env=os.environ | settings, check=True, capture_output=True, timeout=120)


def test_the_alert_of_a_stopped_redis_fires_and_clears(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    shutil.copytree(ROOT / "sample" / "registry", registry)
    # Users and items alone: the behaviours take the most time.
    tables = tmp_path / "tables"
    tables.mkdir()
    for name in ("users", "items"):
        shutil.copy(ROOT / "sample" / "kuairand" / f"{name}.parquet", tables)
    with EmbeddedRedis() as redis:
        load(tables, registry, redis.url)
        fusion = ROOT / "sample" / "fusion.yaml"
        with (
            serving(tmp_path, registry, redis.url, fusion_file=fusion) as service,
            prometheus(tmp_path, service.url.removeprefix("http://")) as address,
        ):

            def fires() -> bool:
                """Rank once, so that there is traffic, and ask Prometheus."""
                service.rank(["5239", "6831"])
                alerts = call("GET", f"{address}/api/v1/alerts")[1]["data"]["alerts"]
                return any(alert["state"] == "firing" and alert["labels"]["alertname"] == ALERT for alert in alerts)

            scraped = f"{address}/api/v1/query?query=funnelrank_workers"
            wait_until(lambda: bool(call("GET", scraped)[1]["data"]["result"]))
            assert not fires()
            redis.kill()
            wait_until(fires)
            redis.start()
            load(tables, registry, redis.url)
            wait_until(lambda: not fires())
