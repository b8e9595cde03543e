"""Tests a service whose registry is in a bucket: changes from everywhere, and rankings while the store is away."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from copied_registry import host, published
from object_store import PREFIX, ObjectStore
from redis import Redis
from running_service import ROOT, Server, serving, wait_until

from service.addresses.registry_address import registry_folder
from service.bundle.registry import Target
from service.rollout.lines.changes import write_rollout
from service.sample.embedded_redis import EmbeddedRedis

CANDIDATES = ["i1", "i2"]
GAUGE = 'funnelrank_document_unreadable{document="object_store"}'


def version_of(server: Server) -> str:
    answer = server.rank(CANDIDATES)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model"]["version"])


def gauge(server: Server) -> str:
    lines = server.http.get("/metrics").text.splitlines()
    return next(line.rpartition(" ")[2] for line in lines if line.startswith(GAUGE))


def registry_check(server: Server) -> str:
    checks: list[dict[str, Any]] = server.http.get("/readyz?verbose").json()["checks"]
    return str(next(check["detail"] for check in checks if check["name"] == "registry"))


@pytest.mark.parametrize("bucket", ["s3", "gs"], indirect=True)
def test_a_bucket_is_followed_changed_and_outlived(
    tmp_path: Path, bucket: ObjectStore, redis_server: EmbeddedRedis, store: Redis
) -> None:
    operator = host(tmp_path, "operator", bucket.uri)
    published(operator, "1")
    published(operator, "2", bias=1.0)
    write_rollout(operator, Target(name="synthetic", version="1"), "ann")
    settings = {"registry_cache": tmp_path / "host", "allow_degraded_ready": True}
    with serving(tmp_path, bucket.uri, redis_server.url, **settings) as server:
        assert version_of(server) == "1"
        assert registry_check(server) == "the object store answers"
        assert gauge(server) == "0.0"

        # A change from another host is followed, and one of a worker is for all hosts.
        write_rollout(operator, Target(name="synthetic", version="2"), "ann")
        wait_until(lambda: version_of(server) == "2")
        listed = {v["version"] for v in server.http.get("/models").json()["published"]}
        assert listed == {"1", "2"}
        published(operator, "3", bias=2.0)
        answer = server.put("/models/rollout", {"stable": "synthetic/3", "author": "bob", "revision": 2})
        assert answer.status_code == 200, answer.text
        assert b'"author": "bob"' in bucket.objects[f"{PREFIX}rollout.json"]
        wait_until(lambda: version_of(server) == "3")
        assert server.put("/models/rollout", {"stable": "synthetic/1", "revision": 2}).status_code == 409

        # An earlier version that cannot be fetched now may be startable: the change is refused for the moment.
        shutil.rmtree(registry_folder(bucket.uri, tmp_path / "host") / "synthetic" / "2")
        bucket.fault = lambda method, key: 503 if method == "GET" and key.startswith(".files") else None
        operators = {"Authorization": "Bearer secret"}
        refused = server.http.post("/models/rollback", json={"author": "bob"}, headers=operators)
        assert (refused.status_code, refused.json()["code"]) == (503, "registry_unavailable"), refused.text
        assert version_of(server) == "3"

        # The store is away: rankings go on, changes are refused, and everybody is told.
        bucket.fault = lambda _method, _key: 503
        wait_until(lambda: "503" in registry_check(server))
        wait_until(lambda: gauge(server) == "1.0")
        assert server.http.get("/readyz").status_code == 200
        assert version_of(server) == "3"
        refused = server.put("/models/rollout", {"stable": "synthetic/1"})
        assert (refused.status_code, refused.json()["code"]) == (503, "registry_unavailable")
        detail = refused.json()["detail"]
        assert detail.startswith(f"rollout.json cannot be written: {bucket.uri}/")
        assert "503" in detail
        assert version_of(server) == "3"


@pytest.mark.slow
@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_a_host_starts_with_its_last_state_while_the_store_is_away(
    tmp_path: Path, bucket: ObjectStore, redis_server: EmbeddedRedis, store: Redis
) -> None:
    operator = host(tmp_path, "operator", bucket.uri)
    published(operator, "1")
    published(operator, "2", bias=1.0)
    write_rollout(operator, Target(name="synthetic", version="1"), "ann")
    settings = {"registry_cache": tmp_path / "host", "allow_degraded_ready": True}
    with serving(tmp_path, bucket.uri, redis_server.url, workers=2, **settings) as server:
        assert version_of(server) == "1"
        write_rollout(operator, Target(name="synthetic", version="2"), "ann")
        wait_until(lambda: {version_of(server) for _ in range(8)} == {"2"})
    bucket.fault = lambda _method, _key: 503
    with serving(tmp_path, bucket.uri, redis_server.url, **settings) as server:
        assert version_of(server) == "2"
        assert "503" in registry_check(server)
        bucket.fault = lambda _method, _key: None
        write_rollout(operator, Target(name="synthetic", version="1"), "ann")
        wait_until(lambda: version_of(server) == "1")
        wait_until(lambda: gauge(server) == "0.0")
        assert registry_check(server) == "the object store answers"
    # One without a state says why it cannot start.
    bucket.fault = lambda _method, _key: 503
    empty = {"registry_cache": tmp_path / "empty"}
    with serving(tmp_path, bucket.uri, redis_server.url, wait_for=None, **empty) as server:
        assert server.process.wait(timeout=60) == 1
        assert f"error: FUNNELRANK_REGISTRY: {bucket.uri}/callers.json: " in server.log_lines


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_commands_take_the_address_of_a_bucket(
    tmp_path: Path, bucket: ObjectStore, store: Redis, redis_server: EmbeddedRedis
) -> None:
    operator = host(tmp_path, "operator", bucket.uri)
    published(operator, "1")
    environment = {"FUNNELRANK_REGISTRY_CACHE": str(tmp_path / "commands"), "PATH": "/usr/bin:/bin"}
    environment |= {"FUNNELRANK_REDIS_URL": redis_server.url} | bucket.environment

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "funnelrank", *words]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    made = run("rollout", "synthetic", "1", "--registry", bucket.uri)
    assert made.returncode == 0, made.stderr
    assert b'"revision": 1' in bucket.objects[f"{PREFIX}rollout.json"]
    write_rollout(operator, Target(name="synthetic", version="1"), "ann", expected_revision=1)
    environment["FUNNELRANK_REGISTRY"] = bucket.uri
    assert '"revision": 2' in run("rollout").stdout
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "users.csv").write_text("user_id,gender,interests,age\nu1,f,,20\n")
    loaded = run("load", str(tmp_path / "tables"))
    assert loaded.returncode == 0, loaded.stderr
    # Every host's copy is the same registry.
    (claims,) = store.keys("fr:*:registries")
    assert store.hvals(claims) == [bucket.uri.encode()]
    bucket.fault = lambda _method, _key: 503
    failed = run("rollout")
    assert (failed.returncode, failed.stderr.startswith(f"error: {bucket.uri}/callers.json: ")) == (1, True), (
        failed.stderr
    )
