"""Tests the command line in processes of their own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_http
import httpx
import pyarrow as pa
import pyarrow.parquet
import pytest
import redis
from running_service import ROOM

from service.sample.embedded_redis import EmbeddedRedis, free_port

ROOT = Path(__file__).parents[2]

CONTEXT = {"tab": None, "hour": None}


def environment(**settings: Any) -> dict[str, str]:
    clean_environment = {k: v for k, v in os.environ.items() if not k.startswith(("FUNNELRANK_", "PROMETHEUS_"))}
    return clean_environment | {f"FUNNELRANK_{k.upper()}": str(v) for k, v in settings.items()}


def run(*arguments: Any, **settings: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "service", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(**settings), capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def sample(tmp_path: Path, registry: Path) -> Path:
    """A sample folder for `run-sample`, with a registry of its own."""
    folder = tmp_path / "sample"
    folder.mkdir()
    registry.rename(folder / "registry")
    data = folder / "kuairand"
    data.mkdir()
    empty = dict.fromkeys(("tag", "topics", "quality"), pa.nulls(3))
    items = pa.table({"item_id": [1, 2, 3], "price": [1.0, 2.0, 3.0]} | empty)
    users = pa.table({"user_id": [712], "age": [30], "gender": pa.nulls(1), "interests": pa.nulls(1)})
    pa.parquet.write_table(items, data / "items.parquet")
    pa.parquet.write_table(users, data / "users.parquet")
    (folder / "fusion.yaml").write_text("revision: 9\nprofiles: {default: {kind: weighted_sum, weights: {pctr: 1.0}}}")
    (folder / "request.json").write_text(
        json.dumps({"user_id": "712", "candidates": ["1", "2", "3"], "context": CONTEXT})
    )
    return folder


def test_help_lists_every_setting_and_an_example() -> None:
    text = run("serve", "--help").stdout
    assert "FUNNELRANK_REDIS_TIMEOUT_MS" in text
    assert "[ms]" in text
    assert "example:" in text
    for command in ("load", "inspect", "rollout", "rules", "run-sample"):
        assert "example:" in run(command, "--help").stdout


def test_rollout_shows_and_changes_the_document(registry: Path, kit: SimpleNamespace) -> None:
    kit.publish(registry, "2")
    assert json.loads(run("rollout", registry=registry).stdout)["stable"]["version"] == "1"
    changed = json.loads(run("rollout", "synthetic", "2", "--registry", registry).stdout)
    assert (changed["revision"], changed["stable"]["version"]) == (2, "2")
    for name, version, message in (
        ("synthetic", "9", "bundle_missing"),
        ("../x", "1", "name"),
        ("synthetic", "a/b", "version"),
    ):
        refused = run("rollout", name, version, registry=registry)
        assert refused.returncode == 1
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr
    assert run("rollout", "synthetic", registry=registry).returncode == 2


def test_rules_shows_and_changes_the_document(tmp_path: Path, registry: Path) -> None:
    assert json.loads(run("rules", registry=registry).stdout)["rules"] == {}
    file = tmp_path / "rules.yaml"
    file.write_text("rules: {default: [{type: spread, feature: tag, distance: 3}], home: []}")
    changed = run("rules", file, "--reason", "variety", registry=registry)
    assert (changed.returncode, changed.stderr) == (0, "")
    document = json.loads(changed.stdout)
    spread = {"type": "spread", "feature": "tag", "distance": 3}
    assert (document["revision"], document["rules"]["default"]) == (1, [spread])
    for text, message in (
        ("rules: {default: [{type: spread, feature: tga, distance: 3}]}", "rules.default[0].feature: "),
        ("rules: {default: [{type: spread, feature: tag, distance: 1}]}", "distance"),
        ("rules: {a: [], a: []}", "rules.yaml:1"),
        ("{}", "rules: Field required"),
    ):
        file.write_text(text)
        refused = run("rules", file, registry=registry)
        assert refused.returncode == 1
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr
    history = run("rules", "--history", registry=registry).stdout.splitlines()
    assert [line.split()[0] for line in history] == ["1", "0"]
    assert "default (1), home (0)" in history[0]
    assert json.loads(run("rules", "--rollback", registry=registry).stdout)["rules"] == {}
    assert run("rules", "--to", "1", registry=registry).returncode == 2


def test_load_and_inspect_work_together(sample: Path, redis_server: EmbeddedRedis, store: redis.Redis) -> None:
    settings = {"redis_url": redis_server.url, "registry": sample / "registry"}
    loaded = run("load", sample / "kuairand", **settings)
    assert loaded.returncode == 0, loaded.stderr
    assert "items: 100%" in loaded.stderr
    assert "age                     30" in run("inspect", "user", "712", **settings).stdout
    assert run("inspect", "item", "99", **settings).returncode == 1
    assert "bundle_missing" in run("load", sample / "kuairand", "--bundle", "synthetic/7", **settings).stderr


def test_commands_without_redis_say_so_and_hide_the_password(sample: Path) -> None:
    settings = {"redis_url": f"redis://me:hush@127.0.0.1:{free_port()}/0", "registry": sample / "registry"}
    for command in (("load", sample / "kuairand"), ("inspect", "user", "1")):
        failed = run(*command, **settings)
        assert failed.returncode == 1
        assert "Redis" in failed.stderr
        assert "hush" not in failed.stderr
        assert "Traceback" not in failed.stderr


@pytest.fixture
def started(sample: Path) -> Iterator[Any]:
    """Start `run-sample` in a process group of its own; returns the process, its port and its output."""
    processes = []

    def start(**settings: Any) -> tuple["subprocess.Popen[str]", int]:
        port = free_port()
        command = [sys.executable, "-m", "service", "run-sample", "--sample", str(sample), "--port", str(port)]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(**ROOM | settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process, port

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()


def output_until(process: "subprocess.Popen[str]", end: str) -> str:
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if end in line:
            return text
    raise AssertionError(f"it ended before {end!r}: {text}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_command_ranks_the_sample_and_one_signal_stops_it_all(started: Any, number: signal.Signals) -> None:
    process, port = started(workers=2)
    text = output_until(process, '"ranking"')
    url = next(word for word in text.split() if word.startswith("redis://"))
    assert f"curl -s http://127.0.0.1:{port}/rank" in text
    assert '"degraded": []' in text
    assert '"revision": 9' in text
    os.killpg(process.pid, number)
    assert process.wait(timeout=30) == 0
    with pytest.raises(httpx.ConnectError):
        fresh_http.get(f"http://127.0.0.1:{port}/livez")
    with pytest.raises(redis.exceptions.ConnectionError), redis.Redis.from_url(url) as client:
        client.ping()


def test_the_sample_runs_on_a_redis_that_is_given(
    started: Any, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    process, port = started(redis_url=redis_server.url)
    text = output_until(process, '"ranking"')
    assert "started Redis" not in text
    assert store.hlen("fr:schemas") == 1
    assert (
        fresh_http.post(
            f"http://127.0.0.1:{port}/rank", json={"user_id": "712", "candidates": ["1"], "context": CONTEXT}
        ).json()["degraded"]
        == []
    )


def test_a_sample_that_is_not_there_is_told(tmp_path: Path) -> None:
    failed = run("run-sample", "--sample", tmp_path / "nowhere")
    assert failed.returncode == 1
    assert "is not a folder" in failed.stderr
