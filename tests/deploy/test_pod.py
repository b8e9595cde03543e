"""Runs what the chart's pods run, without a cluster: the copy of the bucket, the load, the service, Helm's test."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from child_process import child
from rendered_chart import Document, one, rendered
from running_service import wait_until

from service.sample.calls import call, wait_until_ready
from service.sample.embedded_redis import EmbeddedRedis, free_port

pytestmark = pytest.mark.tools
ROOT = Path(__file__).parents[2]
BUCKET = "models/ranking"
VALUES: Document = {
    "redisUrl": "redis://redis:6379/0",
    "adminToken": "secret",
    "registry": {"bucket": f"s3://{BUCKET}", "sync": {"intervalS": 1}},
    "load": {"enabled": True, "claim": "tables", "path": "kuairand"},
    "fusion": yaml.safe_load((ROOT / "sample" / "fusion.yaml").read_text()),
    "settings": {"drain_ms": 1500, "rollout_poll_ms": 100, "redis_timeout_ms": 5000},
    "test": {"request": json.loads((ROOT / "sample" / "request.json").read_text())},
}


class Pods:
    """The containers of a release, run as processes on folders of this machine."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.documents = rendered(VALUES)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.bucket = folder / "bucket" / BUCKET
        # What the manifests mount, or give by a secret, is on this machine elsewhere.
        self.places = {
            "/registry": folder / "registry",
            "/run/funnelrank": folder / "run",
            "/tmp": folder / "tmp",
            "/etc/funnelrank": folder / "files",
        }
        self.secret = {"FUNNELRANK_REDIS_URL": redis_url, "FUNNELRANK_ADMIN_TOKEN": "secret"}
        for place in self.places.values():
            place.mkdir()
        for name, text in one(self.documents, "ConfigMap", "funnelrank-files")["data"].items():
            (self.places["/etc/funnelrank"] / name).write_text(text)

    def container(self, kind: str, name: str, part: str) -> Document:
        """A container of a manifest, by its own name."""
        document = one(self.documents, kind, name)
        pod = document["spec"] if kind == "Pod" else document["spec"]["template"]["spec"]
        (container,) = [c for c in [*pod.get("initContainers", []), *pod["containers"]] if c["name"] == part]
        return dict(container)

    def environment(self, container: Document) -> dict[str, str]:
        """The variables of a container, with the places and the port of this machine."""
        given = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        for source in container.get("envFrom", []):
            given |= one(self.documents, "ConfigMap", source["configMapRef"]["name"])["data"]
        for variable in container.get("env", []):
            given[variable["name"]] = variable["value"] if "value" in variable else self.secret[variable["name"]]
        for name, value in given.items():
            for mounted, place in self.places.items():
                if value == mounted or value.startswith(f"{mounted}/"):
                    given[name] = f"{place}{value.removeprefix(mounted)}"
        if "FUNNELRANK_PORT" in given:
            given["FUNNELRANK_PORT"] = str(self.port)
        return given

    def sync(self, mode: str) -> tuple[list[str], dict[str, str]]:
        """Command and environment of the sidecar; a folder takes the place of the bucket."""
        container = self.container("Deployment", "funnelrank", "registry-sync")
        script = self.places["/tmp"] / "sync.sh"
        script.write_text(one(self.documents, "ConfigMap", "funnelrank-sync")["data"]["sync.sh"])
        assert container["command"] == ["sh", "/sync/sync.sh", "forever"]
        folder = {
            "RCLONE_CONFIG_REGISTRY_TYPE": "alias",
            "RCLONE_CONFIG_REGISTRY_REMOTE": str(self.bucket.parents[1]),
        }
        return ["sh", str(script), mode], self.environment(container) | folder

    def run_sync(self) -> "subprocess.CompletedProcess[str]":
        command, environment = self.sync("once")
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    @contextmanager
    def started(self, command: list[str], environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
        with child(command, env=environment, cwd=self.places["/tmp"]) as process:
            yield process


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    with EmbeddedRedis() as redis:
        made = Pods(tmp_path, redis.url)
        shutil.copytree(ROOT / "sample" / "registry", made.bucket)
        yield made


def funnelrank(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "funnelrank", *arguments]


def test_the_copy_of_a_bucket_is_whole_and_documents_come_last(pods: Pods) -> None:
    registry = pods.places["/registry"]
    document = pods.bucket / "rollout.json"
    text = document.read_text()
    # Without the document nothing is live, and the other containers wait.
    document.unlink()
    assert pods.run_sync().returncode == 1
    assert "the bucket has no rollout.json" in pods.run_sync().stderr
    assert list(registry.glob("*.json")) == []
    document.write_text(text)
    done = pods.run_sync()
    assert (done.returncode, done.stdout) == (0, "copied rules.json\ncopied rollout.json\n")
    copied = {str(p.relative_to(registry)) for p in registry.rglob("*") if p.is_file() and ".incoming" not in p.parts}
    assert copied == {str(path.relative_to(pods.bucket)) for path in pods.bucket.rglob("*") if path.is_file()}
    # An unchanged document is not copied again, and a changed one of the same length and time is.
    assert pods.run_sync().stdout == ""
    before = document.stat()
    document.write_text(text.replace("{", "{ ", 1).replace("}\n", "}", 1))
    os.utime(document, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert document.stat().st_size == before.st_size
    assert pods.run_sync().stdout == "copied rollout.json\n"
    assert (registry / "rollout.json").read_text() == document.read_text()


def test_a_document_waits_for_the_bundles_that_it_may_name(pods: Pods) -> None:
    command, environment = pods.sync("once")
    # No file may be larger than 64 KiB, as on a disk that is full: the bundles do not fit.
    limited = ["sh", "-c", 'ulimit -f 128; exec "$@"', "sh", *command]
    done = subprocess.run(limited, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "copied" not in done.stdout
    assert not (pods.places["/registry"] / "rollout.json").exists()
    assert pods.run_sync().returncode == 0


def test_the_pods_of_a_release_rank_follow_the_bucket_and_end_in_time(pods: Pods) -> None:
    sync = pods.sync("forever")
    service = pods.container("Deployment", "funnelrank", "service")
    pod = one(pods.documents, "Deployment")["spec"]["template"]["spec"]
    with pods.started(*sync) as sidecar:
        wait_until((pods.places["/registry"] / "rollout.json").exists)
        load = pods.container("Job", "funnelrank-load-1", "load")
        assert load["args"] == ["load", "/data/kuairand"]
        # Users without their behaviours, which take the most time.
        tables = pods.places["/tmp"] / "kuairand"
        tables.mkdir()
        for name in ("users", "items"):
            shutil.copy(ROOT / "sample" / "kuairand" / f"{name}.parquet", tables)
        subprocess.run(funnelrank("load", str(tables)), env=pods.environment(load), check=True, timeout=120)
        with pods.started(funnelrank(*service["args"]), pods.environment(service)) as process:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                wait_until_ready(process, pods.url + service[probe]["httpGet"]["path"], 60)
            live = json.loads((pods.bucket / "rollout.json").read_text())["stable"]
            assert helm_test(pods)["model"]["version"] == live["version"]
            publish(pods, live["version"], "next")
            wait_until(lambda: helm_test(pods)["model"]["version"] == "next")
            # At SIGTERM the pod leaves the service first, and answers until nobody sends requests any more.
            process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            wait_until(lambda: call("GET", f"{pods.url}/readyz")[0] == 503)
            assert call("POST", f"{pods.url}/rank", VALUES["test"]["request"], "secret")[0] == 200
            assert process.wait(timeout=pod["terminationGracePeriodSeconds"]) == 0
            assert time.monotonic() - started < pod["terminationGracePeriodSeconds"]
        sidecar.terminate()
        assert sidecar.wait(timeout=10) == 0


def helm_test(pods: Pods) -> Any:
    """The ranking that the test of Helm prints."""
    container = pods.container("Pod", "funnelrank-test", "test")
    environment = pods.environment(container) | {"URL": pods.url}
    program = [sys.executable, "-c", *container["args"]]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.partition("\n")[2])


def publish(pods: Pods, live: str, version: str) -> None:
    """Upload a bundle, a copy of the live one, and then the document that makes it live, as docs/kubernetes.md says."""
    bundle = str(pods.bucket / "kuairand-mmoe" / live)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    for command in (
        funnelrank("republish", bundle, version),
        funnelrank("rollout", "kuairand-mmoe", version, "--registry", str(pods.bucket)),
    ):
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)


def test_the_test_of_helm_fails_with_the_reason() -> None:
    program = one(rendered(VALUES), "Pod", "funnelrank-test")["spec"]["containers"][0]["args"]
    environment = {"URL": f"http://127.0.0.1:{free_port()}", "REQUEST": "{}"}
    done = subprocess.run([sys.executable, "-c", *program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Connection refused" in done.stderr
