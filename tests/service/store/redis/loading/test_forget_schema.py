"""Tests the retirement of a feature schema: all its rows are removed, and no others."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import redis

from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.keys import SCHEMAS, behaviours_key, item_key

NOW = int(time.time() * 1000)


def send(server: Any, *events: dict[str, Any]) -> Any:
    answer = server.http.post("/events", json={"events": list(events)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def event(item_id: str, at: int, **more: Any) -> dict[str, Any]:
    return {"user_id": "712", "item_id": item_id, "action": "click", "timestamp": at} | more


def sequence(store: redis.Redis, layouts: Layouts) -> np.ndarray:
    """The stored behaviours, newest first."""
    assert layouts.behaviour is not None
    members: Any = store.zrevrange(behaviours_key(layouts.fingerprint, "712"), 0, -1)
    return layouts.behaviour.rows(b"".join(m[8:] for m in members))


def forget(fingerprint: str, redis_url: str, registry: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "service", "load", "--forget", fingerprint, "--registry", str(registry)]
    return subprocess.run(
        command,
        cwd=Path(__file__).parents[5],
        env={"FUNNELRANK_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_retired_schema_is_gone_to_the_last_key_and_gets_no_more_writes(
    server: Any, both: redis.Redis, layouts: Layouts, next_layouts: Layouts, redis_server: EmbeddedRedis, registry: Path
) -> None:
    send(server, event("5", NOW))
    for place in range(2500):
        both.set(item_key(next_layouts.fingerprint, str(place)), b"row")
    done = forget(next_layouts.fingerprint, redis_server.url, registry)
    assert done.returncode == 0, done.stderr
    assert f"2501 keys of schema {next_layouts.fingerprint} removed" in done.stdout
    assert "2501 keys" in done.stderr
    send(server, event("6", NOW))
    assert both.keys(f"fr:{next_layouts.fingerprint}:*") == []
    assert both.hkeys(SCHEMAS) == [layouts.fingerprint.encode()]
    assert len(sequence(both, layouts)) == 2


def test_what_is_live_or_not_there_cannot_be_retired(
    both: redis.Redis, layouts: Layouts, redis_server: EmbeddedRedis, registry: Path
) -> None:
    before = both.dbsize()
    for argument, message in (
        (layouts.fingerprint, "synthetic/1 is live"),
        ("0" * 16, f"{layouts.fingerprint} (loaded)"),
        ("*", "no keys of a schema *"),
    ):
        refused = forget(argument, redis_server.url, registry)
        assert refused.returncode == 1
        assert message in refused.stderr
    assert both.dbsize() == before


def test_two_registries_on_one_redis_cannot_remove_each_others_schema(
    tmp_path: Path,
    kit: SimpleNamespace,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
    layouts: Layouts,
    next_layouts: Layouts,
) -> None:
    """A registry may forget a schema that only it has loaded; a schema of both is removed when both have
    forgotten it.
    """
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "items.csv").write_text("item_id,tag,topics,price,quality\n1,a,x,2,3\n")
    first = tmp_path / "first"
    second = tmp_path / "second"
    for registry in (first, second):
        kit.publish(registry, "1")
        kit.publish(registry, "2", schema=next_layouts.schema.model_dump(mode="json"))
        kit.go_live(registry, "2")
    own = layouts.fingerprint
    command = [
        sys.executable,
        "-m",
        "service",
        "load",
        str(tables),
        "--bundle",
        "synthetic/1",
        "--registry",
        str(first),
    ]
    environment = {"FUNNELRANK_REDIS_URL": redis_server.url}
    subprocess.run(command, cwd=Path(__file__).parents[5], env=environment, timeout=60, check=True)

    refused = forget(own, redis_server.url, second)
    assert refused.returncode == 1
    assert str(first) in refused.stderr
    assert store.exists(item_key(own, "1")) == 1
    assert store.hexists(SCHEMAS, own)

    command[-1] = str(second)
    subprocess.run(command, cwd=Path(__file__).parents[5], env=environment, timeout=60, check=True)
    moved = first.rename(tmp_path / "moved")
    refused = forget(own, redis_server.url, moved)
    assert refused.returncode == 1, "the second registry has loaded it too"
    assert str(second) in refused.stderr
    assert store.exists(item_key(own, "1")) == 1
    assert forget(own, redis_server.url, second).returncode == 0
    assert store.keys(f"fr:{own}:*") == []
