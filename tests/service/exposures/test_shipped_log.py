"""Tests a running service whose log is sent on: faults of the target, and kill -9, lose no closed file."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import redis
from kafka_cluster import kafka_cluster

from loop.log.compact import compact
from loop.log.hours import hour_files
from loop.log.sources import opened
from service.sample.embedded_redis import EmbeddedRedis
from tables.log_records import RecordKind


def requests_in(store: Path, folder: Path) -> list[str]:
    """The ids of the rankings that a compaction takes from a store, sorted."""
    with opened(store.as_uri()) as source:
        compact(folder, source=source)
    paths = hour_files(folder, RecordKind.EXPOSURES)
    return sorted(name for path in paths for name in pq.read_table(path).column("request_id").to_pylist())


def gauge(server: Any, name: str) -> float:
    match = re.search(rf"^funnelrank_{re.escape(name)} (\S+)$", server.http.get("/metrics").text, re.MULTILINE)
    return float(match[1]) if match else 0.0


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """A log that goes to a folder as object store, whose files are closed quickly."""
    (tmp_path / "store").mkdir()
    return {
        "exposure_log": (tmp_path / "store").as_uri(),
        "exposure_spool": tmp_path / "spooled",
        "exposure_roll_ms": 100,
    }


def test_rankings_reach_the_store_also_those_of_the_last_moment(
    tmp_path: Path,
    registry: Path,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
    kit: SimpleNamespace,
    settings: dict[str, Any],
) -> None:
    with kit.serving(tmp_path, registry, redis_server.url, workers=2, **settings) as server:
        for i in range(20):
            assert server.rank(["1", "2"], request_id=f"r-{i:02}").status_code == 200
        kit.wait_until(lambda: gauge(server, 'exposure_log_shipped{outcome="sent"}') > 0)
        assert server.rank(["1"], request_id="r-last").status_code == 200
    assert requests_in(tmp_path / "store", tmp_path / "log") == [*(f"r-{i:02}" for i in range(20)), "r-last"]
    assert list((tmp_path / "spooled" / "spool").iterdir()) == []
    # What was taken is removed from the store, and the log has the schemas of its records.
    assert list((tmp_path / "store" / "spool").iterdir()) == []
    assert list((tmp_path / "log" / "schemas").iterdir())


def test_a_store_that_is_away_and_kill_9_lose_no_closed_file(
    tmp_path: Path,
    registry: Path,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
    kit: SimpleNamespace,
    settings: dict[str, Any],
) -> None:
    # Nothing listens at the store's address.
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = {
            "AWS_ENDPOINT": f"http://127.0.0.1:{unused.getsockname()[1]}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_REGION": "eu-west-1",
        }
        setup = f"import os; os.environ.update({away!r})"
        remote = settings | {"exposure_log": "s3://bucket/logs"}
        with kit.serving(tmp_path, registry, redis_server.url, setup=setup, **remote) as server:
            for i in range(5):
                assert server.rank(["1", "2"], request_id=f"r-{i}").status_code == 200
            kit.wait_until(lambda: gauge(server, 'exposure_log_shipped{outcome="failed"}') > 0)
            assert server.rank(["1"], request_id="r-5").status_code == 200
            written = 'exposure_log_records_total{kind="exposures",outcome="written"}'
            kit.wait_until(lambda: gauge(server, written) == 6)
            kit.wait_until(lambda: not list((tmp_path / "spooled" / "spool").glob("*.open")))
            assert gauge(server, "exposure_log_waiting_bytes") > 0
            assert server.log_lines.count("the target refuses them") == 1
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait()
    with kit.serving(tmp_path, registry, redis_server.url, **settings):
        kit.wait_until(lambda: not list((tmp_path / "spooled" / "spool").iterdir()))
    assert requests_in(tmp_path / "store", tmp_path / "log") == [f"r-{i}" for i in range(6)]


def test_rankings_reach_a_topic_whose_brokers_were_away(
    tmp_path: Path,
    registry: Path,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
    kit: SimpleNamespace,
    settings: dict[str, Any],
) -> None:
    with kafka_cluster() as cluster:
        uri = cluster.uri("exposures")
        with kit.serving(tmp_path, registry, redis_server.url, **settings | {"exposure_log": uri}) as server:
            with cluster.away():
                for i in range(5):
                    assert server.rank(["1", "2"], request_id=f"r-{i}").status_code == 200
                kit.wait_until(lambda: gauge(server, "exposure_log_waiting_bytes") > 0)
            kit.wait_until(lambda: gauge(server, 'exposure_log_shipped{outcome="sent"}') > 0)
        log = tmp_path / "log"
        command = [sys.executable, "-m", "funnelrank", "compact", "--log", str(log), "--source", uri]
        subprocess.run(command, check=True, timeout=120)
    paths = hour_files(log, RecordKind.EXPOSURES)
    names = sorted(name for path in paths for name in pq.read_table(path).column("request_id").to_pylist())
    assert names == [f"r-{i}" for i in range(5)]
    assert list((log / "schemas").iterdir())


def test_a_shipper_that_is_killed_is_started_again(
    tmp_path: Path,
    registry: Path,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
    kit: SimpleNamespace,
    settings: dict[str, Any],
) -> None:
    with kit.serving(tmp_path, registry, redis_server.url, **settings) as server:
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        (shipper,) = (int(pid) for pid in children if b"ship_process" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(shipper, signal.SIGKILL)
        assert server.rank(["1"], request_id="after").status_code == 200
        kit.wait_until(lambda: list((tmp_path / "store").glob("spool/*")) != [])
        assert "the shipper of the exposure log has ended" in server.log_lines
    assert requests_in(tmp_path / "store", tmp_path / "log") == ["after"]


@pytest.mark.parametrize(
    ("changed", "setup", "message"),
    [
        ({"exposure_log": "s3://"}, "", "the address names no bucket"),
        ({"exposure_log": "ftp://host/logs"}, "", "FUNNELRANK_EXPOSURE_LOG: a folder or one of s3://"),
        ({"exposure_spool": ""}, "", "FUNNELRANK_EXPOSURE_SPOOL"),
        ({}, "import sys; sys.modules['obstore'] = None", "pip install 'funnelrank[objects]'"),
        (
            {"exposure_log": "kafka://127.0.0.1:1/t"},
            "import sys; sys.modules['confluent_kafka'] = None",
            "pip install 'funnelrank[kafka]'",
        ),
        ({"exposure_log": "kafka://127.0.0.1:1/t?config=/no/file"}, "", "/no/file"),
    ],
)
def test_a_target_that_cannot_be_used_is_refused_at_the_start(
    tmp_path: Path,
    registry: Path,
    redis_server: EmbeddedRedis,
    kit: SimpleNamespace,
    settings: dict[str, Any],
    changed: dict[str, str],
    setup: str,
    message: str,
) -> None:
    with kit.serving(tmp_path, registry, redis_server.url, None, setup=setup, **settings | changed) as server:
        assert server.process.wait(timeout=60) in (1, 2)
        assert message in server.log_lines
        assert "Traceback" not in server.log_lines
