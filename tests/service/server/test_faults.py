"""Tests real external faults: the registry removed, the disk full, Redis failing over, Redis behind TLS."""

import asyncio
import ssl
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import redis
from redis_proxy import RedisProxy

from features.layouts import Layouts
from service.rollout.rollout import read_rollout
from service.sample.embedded_redis import EmbeddedRedis
from service.store.base import StoreDown
from service.store.opening import open_store
from service.store.redis.clients import client
from service.store.redis.keys import item_key

ROOT = Path(__file__).parents[3]


def test_a_registry_that_is_gone_changes_nothing_but_what_can_be_changed(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    kit.publish(registry, "2")
    with kit.serving(tmp_path, registry, redis_server.url, workers=2) as server:
        away = registry.rename(registry.with_name("away"))
        for _ in range(10):
            assert server.rank(["1"]).json()["model"]["version"] == "1"
        kit.wait_until(lambda: "problem" in server.http.get("/models").json())
        assert server.http.get("/readyz").status_code == 200
        answer = server.http.post("/models/rollback", headers={"Authorization": "Bearer secret"})
        assert (answer.status_code, answer.json()["code"]) == (503, "registry_unavailable")
        fusion = server.put("/fusion", {"profiles": {"default": {"kind": "weighted_sum", "weights": {"pctr": 1}}}})
        assert (fusion.status_code, fusion.json()["code"]) == (503, "registry_unavailable")
        away.rename(registry)
        assert server.put("/models/rollout", {"stable": {"name": "synthetic", "version": "2"}}).status_code == 200
        kit.wait_until(
            lambda: server.rank(["1"]).json()["model"]["version"] == "2",
            recovery="registry gone, from the first change after it is back",
        )


def test_a_disk_that_is_full_leaves_the_document_as_it_was(registry: Path, kit: SimpleNamespace) -> None:
    kit.publish(registry, "2")
    for _ in range(10):
        kit.go_live(registry, "1")
    before = read_rollout(registry)
    files = sorted(p.name for p in registry.iterdir())
    command = f"ulimit -f 1; exec {sys.executable} -m service rollout synthetic 2 --registry {registry}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert "File too large" in done.stderr
    assert read_rollout(registry) == before
    assert sorted(p.name for p in registry.iterdir()) == files, "nothing half-written is left"


def test_a_failover_costs_degraded_answers_and_no_failed_one(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, layouts: Layouts
) -> None:
    event = {"user_id": "712", "item_id": "1", "action": "click", "timestamp": 1_700_000_000_000}
    with (
        EmbeddedRedis() as primary,
        EmbeddedRedis("--replicaof", "127.0.0.1", str(primary.port)) as replica,
        RedisProxy(primary.port).running() as address,
    ):
        with redis.Redis.from_url(primary.url) as client:
            client.set(item_key(layouts.fingerprint, "1"), layouts.item.pack({"item_id": "1", "price": 1}))
        with redis.Redis.from_url(replica.url) as client:
            kit.wait_until(lambda: client.exists(item_key(layouts.fingerprint, "1")) == 1)
        with kit.serving(tmp_path, registry, address.url) as server:
            kit.wait_until(lambda: server.rank(["1"]).json()["degraded"] == ["unknown_user"])
            primary.kill()
            address.lead_to(replica.port)
            kit.wait_until(
                lambda: server.rank(["1"]).json()["degraded"] == ["unknown_user"],
                recovery="failover, from when the address leads elsewhere",
            )
            refused = server.http.post("/events", json={"events": [event]})
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable"), (
                "a replica takes no writes"
            )
            with redis.Redis.from_url(replica.url) as client:
                client.replicaof("NO", "ONE")
            kit.wait_until(
                lambda: server.http.post("/events", json={"events": [event]}).status_code == 200,
                recovery="failover, writes, from the promotion",
            )
            assert 'outcome="internal_error"' not in server.http.get("/metrics").text


def test_a_connection_that_is_half_open_costs_no_more_than_the_timeout_and_is_given_up(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    def degraded() -> list[str]:
        answer = server.rank(["1"])
        assert answer.status_code == 200, answer.text
        return list(answer.json()["degraded"])

    with (
        RedisProxy(redis_server.port).running() as address,
        kit.serving(tmp_path, registry, address.url, redis_timeout_ms=50) as server,
    ):
        # 50 ms may be too short for the first answers of a busy machine.
        kit.wait_until(lambda: "store_unavailable" not in degraded())
        address.mute = True
        for _ in range(30):  # over a second at 50 ms each: also new connections are taken and told nothing
            assert degraded() == ["store_unavailable"]
        address.mute = False
        kit.wait_until(
            lambda: degraded() == ["unknown_user", "unknown_items:1"],
            recovery="Redis half open (takes all, says nothing), from when it speaks",
        )


def test_redis_is_reached_through_tls_and_as_an_acl_user(tmp_path: Path, layouts: Layouts) -> None:
    key = tmp_path / "key.pem"
    certificate = tmp_path / "cert.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
        *names,
    ]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def ask(url: str) -> bool:
        reader = open_store(url, 5000)
        try:
            await reader.fetch(layouts, "712", ["1"], 5)
        except StoreDown:
            return False
        finally:
            reader.close()
        return True

    allowed = [
        "on",
        ">hush",
        "~fr:*",
        "&*",
        "+get",
        "+mget",
        "+zrevrange",
        "+zrevrangebyscore",
        "+hgetall",
        "+ping",
        "+select",
        "+client",
    ]
    with EmbeddedRedis() as own, RedisProxy(own.port, context).running() as address:
        with redis.Redis.from_url(own.url) as admin:
            admin.execute_command("ACL", "SETUSER", "ranker", *allowed)
            admin.execute_command("ACL", "SETUSER", "default", "off")
        good = f"rediss://ranker:hush@localhost:{address.port}/0?ssl_ca_certs={certificate}"
        assert asyncio.run(ask(good))
        assert asyncio.run(ask(good.replace("hush", "wrong"))) is False
        assert asyncio.run(ask(f"rediss://ranker:hush@localhost:{address.port}/0")) is False, (
            "a certificate that nobody vouches for"
        )
        assert asyncio.run(ask(f"rediss://ranker:hush@localhost:{address.port}/0?ssl_cert_reqs=none"))
        by_address = good.replace("localhost", "127.0.0.1")
        assert asyncio.run(ask(by_address)) is False, "a certificate of another name"
        assert asyncio.run(ask(f"{by_address}&ssl_check_hostname=false"))
        with client(f"{by_address}&ssl_check_hostname=false", 5) as writing:
            assert writing.ping()
