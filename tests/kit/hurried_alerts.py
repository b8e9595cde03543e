"""Starts a real Prometheus with one alert rule of the project, over seconds instead of minutes."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from child_process import child
from running_service import ROOT, wait_until

from service.sample.calls import call, wait_until_ready
from service.sample.embedded_redis import free_port

RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"


def hurried_rule(alert: str) -> dict[str, object]:
    """The alert with its expression, over 10 s instead of 5 minutes, and without its minute of waiting."""
    document = yaml.safe_load(RULES.read_text())
    (rule,) = [rule for group in document["groups"] for rule in group["rules"] if rule.get("alert") == alert]
    assert rule["expr"].count("[5m]") == 1
    return rule | {"expr": rule["expr"].replace("[5m]", "[10s]"), "for": "1s"}


@contextmanager
def prometheus(folder: Path, target: str, alert: str) -> Iterator[str]:
    """The address of a Prometheus that scrapes the target every second, has done so, and has the hurried rule."""
    (folder / "rules.yaml").write_text(json.dumps({"groups": [{"name": "hurried", "rules": [hurried_rule(alert)]}]}))
    document = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": [{"job_name": "funnelrank", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(document))  # JSON is YAML
    port = free_port()
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    options.append(f"--web.listen-address=127.0.0.1:{port}")
    with child(["prometheus", *options], stderr=subprocess.DEVNULL) as process:
        wait_until_ready(process, f"http://127.0.0.1:{port}/-/ready", 60, "Prometheus")
        scraped = f"http://127.0.0.1:{port}/api/v1/query?query=funnelrank_workers"
        wait_until(lambda: bool(call("GET", scraped)[1]["data"]["result"]))
        yield f"http://127.0.0.1:{port}"


def fires(address: str, alert: str) -> bool:
    """Whether Prometheus says that the alert fires."""
    alerts = call("GET", f"{address}/api/v1/alerts")[1]["data"]["alerts"]
    return any(one["state"] == "firing" and one["labels"]["alertname"] == alert for one in alerts)
