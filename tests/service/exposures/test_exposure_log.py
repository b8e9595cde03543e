"""Tests the exposure log of a running service: the content of a record; faults of the log do not affect rankings."""

import re
import resource
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
import redis

from features import FeatureSchema
from features.layouts import Layouts
from service.exposures.log import Outcome, RecordLog
from service.exposures.spool import Spool, SpoolLimits
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.keys import item_key, user_key
from service.user_split import within
from tables.log_records import RecordKind, batch_of, kind_of

NOW = int(time.time() * 1000)


def records(folder: Path) -> list[dict[str, Any]]:
    """The exposures of every file of a log, closed or not, in the order in which they were logged."""
    logged: list[dict[str, Any]] = []
    for path in sorted((folder / "spool").glob("exposures-*")):
        logged += read_stream(path)
    return sorted(logged, key=lambda record: record["logged_ms"])


def read_stream(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with pa.OSFile(str(path)) as file:
        try:
            with pa.ipc.open_stream(file) as stream:
                for batch in stream:
                    rows += batch.to_pylist()
        except (pa.ArrowInvalid, OSError):
            pass  # the end of a stream that is still written, or was when its writer was killed
    return rows


def counted(server: Any, outcome: str, kind: str = "exposures") -> float:
    pattern = rf'funnelrank_exposure_log_records_total{{kind="{kind}",outcome="{outcome}"}} (\S+)'
    match = re.search(pattern, server.http.get("/metrics").text)
    return float(match[1]) if match else 0.0


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_an_answered_ranking_leaves_one_record_of_what_was_served(
    tmp_path: Path,
    log: Path,
    registry: Path,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
    kit: SimpleNamespace,
    layouts: Layouts,
) -> None:
    user = layouts.user.pack({"user_id": "712", "age": 31.5})
    store.set(user_key(layouts.fingerprint, "712"), user)
    item = layouts.item.pack({"item_id": "5", "tag": "x", "price": 2.5})
    store.set(item_key(layouts.fingerprint, "5"), item)
    with kit.serving(tmp_path, registry, redis_server.url, exposure_log=log, workers=2) as server:
        event = {"user_id": "712", "item_id": "5", "action": "click", "timestamp": NOW - 1000}
        assert server.http.post("/events", json={"events": [event]}).status_code == 200
        answers = [
            server.rank(["1", "5", "7"], top_k=2, request_id=f"r-{i}", context={"tab": 1, "hour": 2}).json()
            for i in range(20)
        ]
        assert server.rank([], request_id="refused").status_code == 422
        kit.wait_until(lambda: len(records(log)) == 20)
    by_request = {record["request_id"]: record for record in records(log)}
    assert len(by_request) == len(records(log)) == 20
    schema = FeatureSchema.model_validate_json((log / "schemas" / f"{by_request['r-0']['schema']}.json").read_bytes())
    logged = Layouts.of(schema)
    assert schema == layouts.schema
    for answer in answers:
        record = by_request[answer["request_id"]]
        ranking = answer["ranking"]
        assert record["item_ids"] == [entry["item_id"] for entry in ranking]
        assert record["scores"] == [entry["score"] for entry in ranking]
        predictions = np.array(record["predictions"], np.float32).reshape(len(record["tasks"]), -1)
        for place, entry in enumerate(ranking):
            served = np.array([entry["predictions"][task] for task in record["tasks"]], np.float32)
            assert predictions[:, place].tolist() == served.tolist()
        assert [["1", "5", "7"][place] for place in record["places"]] == record["item_ids"]
        assert (record["requested"], record["returned"], record["propensity"]) == (3, 2, 1.0)
        assert (record["model"], record["version"], record["role"]) == tuple(answer["model"].values())
        assert record["degraded"] == answer["degraded"]
        assert record["fusion_revision"] == answer["fusion"]["revision"]
        # The packed rows of the ranking, bit for bit.
        user_row = logged.user.rows(user)
        assert record["user_keys"] == user_row["keys"].tobytes()
        assert record["user_numerics"] == user_row["numerics"].tobytes()
        rows = np.frombuffer(record["item_keys"], "<i8").reshape(2, -1)
        if "5" in record["item_ids"]:
            place = record["item_ids"].index("5")
            assert rows[place].tobytes() == logged.item.rows(item)["keys"].tobytes()
        assert (
            record["context_keys"] == logged.context.rows(logged.context.pack({"tab": 1, "hour": 2}))["keys"].tobytes()
        )
        assert np.frombuffer(record["behaviour_times"], "<i8").tolist() == [NOW - 1000]


def test_what_was_cut_is_logged_if_it_is_wanted(
    tmp_path: Path, log: Path, registry: Path, redis_server: EmbeddedRedis, store: redis.Redis, kit: SimpleNamespace
) -> None:
    with kit.serving(tmp_path, registry, redis_server.url, exposure_log=log, exposure_cut=True) as server:
        whole = [entry["item_id"] for entry in server.rank(["1", "2", "3", "4"]).json()["ranking"]]
        server.rank(["1", "2", "3", "4"], top_k=1)
        kit.wait_until(lambda: len(records(log)) == 2)
    both = records(log)
    assert [record["returned"] for record in both] == [4, 1]
    assert [record["item_ids"] for record in both] == [whole, whole]


def test_a_share_of_the_users_is_logged_and_always_the_same(
    tmp_path: Path, log: Path, registry: Path, redis_server: EmbeddedRedis, store: redis.Redis, kit: SimpleNamespace
) -> None:
    (tmp_path / "fusion.yaml").write_text(
        "profiles:\n  default: {kind: weighted_sum, weights: {pctr: 1.0}}\nscenes: {home: default}\n"
        "experiments:\n  try: {scene: home, arms: [{name: a, profile: default, percent: 100}]}\n"
    )
    settings = {"exposure_log": log, "exposure_share": 0.3, "fusion_file": tmp_path / "fusion.yaml"}
    users = [str(n) for n in range(60)]
    with kit.serving(tmp_path, registry, redis_server.url, **settings) as server:
        for _ in range(2):
            for user in users:
                server.rank(["1"], user_id=user)
        server.rank(["1"], user_id=next(u for u in users if not within(u, "exposures", 30)), scene="home")
        expected = [user for user in users if within(user, "exposures", 30)]
        kit.wait_until(lambda: len(records(log)) == 2 * len(expected) + 1)
    logged = records(log)
    assert sorted(record["user_id"] for record in logged if record["arm"] is None) == sorted(2 * expected)
    assert [record["arm"] for record in logged if record["scene"] == "home"] == ["a"]
    assert 0 < len(expected) < 40


def test_a_killed_service_loses_what_came_within_the_last_flush_alone(
    tmp_path: Path, log: Path, registry: Path, redis_server: EmbeddedRedis, store: redis.Redis, kit: SimpleNamespace
) -> None:
    with kit.serving(tmp_path, registry, redis_server.url, exposure_log=log) as server:
        for i in range(300):
            server.rank(["1", "2"], request_id=f"early-{i}")
        kit.wait_until(lambda: len(records(log)) == 300)
        for i in range(50):
            server.rank(["1", "2"], request_id=f"late-{i}")
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    (path,) = (log / "spool").glob("exposures-*.open")
    logged = [record["request_id"] for record in records(log)]
    assert logged[:300] == [f"early-{i}" for i in range(300)]
    assert logged[300:] == [f"late-{i}" for i in range(len(logged) - 300)]
    # A record that is damaged in the middle is the only one lost.
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    torn = [record["request_id"] for record in records(log)]
    assert torn == logged[: len(torn)]
    assert len(torn) < len(logged)


def test_a_log_folder_that_goes_away_costs_records_and_no_ranking(
    tmp_path: Path, log: Path, registry: Path, redis_server: EmbeddedRedis, store: redis.Redis, kit: SimpleNamespace
) -> None:
    with kit.serving(tmp_path, registry, redis_server.url, exposure_log=log) as server:
        assert server.rank(["1"]).status_code == 200
        kit.wait_until(lambda: counted(server, "written") == 1)
        shutil.rmtree(log)
        assert server.rank(["1"]).status_code == 200
        kit.wait_until(lambda: counted(server, "write_failed") == 1)
        (log / "spool").mkdir(parents=True)
        assert server.log_lines.count("records of the exposure log are dropped") == 1

        def written_again() -> bool:
            assert server.rank(["1"]).status_code == 200
            return counted(server, "written") > 1

        kit.wait_until(written_again)
    assert records(log)


def test_a_full_disk_costs_records_and_no_ranking(
    tmp_path: Path, log: Path, registry: Path, redis_server: EmbeddedRedis, store: redis.Redis, kit: SimpleNamespace
) -> None:
    """The kernel refuses a write beyond the largest file size of a process."""
    with kit.serving(tmp_path, registry, redis_server.url, exposure_log=log) as server:
        pid = server.process.pid
        server.rank(["1"], request_id="before")
        kit.wait_until(lambda: counted(server, "written") == 1)
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        for i in range(50):
            assert server.rank(["1", "2", "3"], request_id=f"full-{i}").status_code == 200
        kit.wait_until(lambda: counted(server, "write_failed") > 0)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        time.sleep(1.1)
        assert server.rank(["1"], request_id="after").status_code == 200
        kit.wait_until(lambda: counted(server, "written") + counted(server, "write_failed") == 52)
        written = counted(server, "written")
    logged = [record["request_id"] for record in records(log)]
    assert logged[0] == "before"
    assert logged[-1] == "after"
    assert len(logged) == written


def test_a_service_does_not_start_with_a_log_that_it_cannot_write(
    tmp_path: Path, registry: Path, redis_server: EmbeddedRedis, kit: SimpleNamespace
) -> None:
    (tmp_path / "file").write_text("")
    with kit.serving(tmp_path, registry, redis_server.url, None, exposure_log=tmp_path / "file" / "log") as server:
        assert server.process.wait(timeout=30) == 1
        assert "FUNNELRANK_EXPOSURE_LOG" in server.log_lines


class MemorySink:
    """A sink that counts what is written, and cannot pack the record "bad"."""

    def __init__(self) -> None:
        self.written = 0

    def write(self, kind: str, records: list[Any]) -> None:
        if "bad" in records:
            raise ValueError("it cannot be packed")
        self.written += len(records)

    def tend(self) -> None: ...

    def close(self) -> None: ...


def test_a_full_queue_drops_records_and_counts_them() -> None:
    sink = MemorySink()
    queue = RecordLog(sink)  # its thread is not started yet: nothing is taken from it
    taken = [queue.offer("exposures", object(), 1000) for _ in range(300)]
    assert taken == [True] * 200 + [False] * 100
    assert queue.counts() == {("exposures", Outcome.QUEUE_FULL): 100}
    queue.start()
    queue.close()
    assert sink.written == 200
    assert queue.counts()["exposures", Outcome.WRITTEN] == 200
    assert queue.queued == 0


def test_a_record_that_cannot_be_packed_costs_itself_alone() -> None:
    sink = MemorySink()
    queue = RecordLog(sink)
    for record in ("good", "bad", "good", "good"):
        queue.offer("exposures", record)
    queue.start()
    queue.close()
    assert queue.counts() == {("exposures", Outcome.WRITTEN): 3, ("exposures", Outcome.WRITE_FAILED): 1}
    assert sink.written == 3


def test_rolled_files_beyond_the_bound_are_removed_oldest_first(tmp_path: Path) -> None:
    spool = Spool(
        tmp_path,
        {"events": lambda rows: batch_of(RecordKind.EVENTS, rows)},
        SpoolLimits(roll_seconds=0, max_bytes=9000),
    )
    for i in range(12):
        spool.write("events", [{"event_id": f"{i}-{'x' * 1000}", "user_id": "1", "time_ms": NOW}])
        time.sleep(0.002)
        spool.tend()
    paths = sorted((tmp_path / "spool").iterdir())
    assert sum(path.stat().st_size for path in paths) <= 9000
    assert spool.removed == 12 - len(paths)
    assert [read_stream(path)[0]["event_id"].partition("-")[0] for path in paths] == [
        str(i) for i in range(12 - len(paths), 12)
    ]


def test_the_schemas_of_the_records_are_told_apart_from_others() -> None:
    for kind in RecordKind:
        assert kind_of(batch_of(kind, []).schema) == kind
    assert kind_of(pa.schema([("user_id", pa.string())])) is None
