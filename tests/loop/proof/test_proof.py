"""Tests the proofs over a log that real processes wrote: replays are bit for bit, and a planted skew is named."""

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from running_service import serving, wait_until
from synthetic_bundle import SCHEMA, go_live, publish

from features import FeatureSchema
from features.layouts import Layouts
from funnelrank.main import main
from loop.errors import LogError
from loop.log.compact import compact
from loop.log.hours import hour_files
from loop.proof.replay import replay
from loop.proof.replay_lines import lines
from loop.proof.verify import Verification, verify
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.keys import item_key, user_key
from tables.log_records import RecordKind

HOUR = 3_600_000
NOW = int(time.time() * 1000)
ITEMS = [str(n) for n in range(30)]
USERS = ["u1", "u2"]


def item_values(item: str) -> dict[str, Any]:
    return {
        "tag": f"t{int(item) % 3}",
        "topics": ["a", "b"][: int(item) % 3],
        "price": int(item) * 1.5,
        "quality": None,
    }


def user_values(user: str) -> dict[str, Any]:
    return {"gender": "f", "interests": ["x", user], "age": 30.5}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A service ranked 40 requests of users with behaviours; its log is compacted, and its tables are written."""
    folder = tmp_path_factory.mktemp("proof")
    registry = folder / "registry"
    publish(registry, "1")
    publish(registry, "2", bias=0.5)
    go_live(registry, "1")
    layouts = Layouts.of(FeatureSchema.model_validate(SCHEMA))
    log = folder / "log"
    events = [
        {
            "user_id": user,
            "item_id": ITEMS[n],
            "action": "click",
            "scene": n % 2,
            "timestamp": NOW - HOUR * (8 - n) + HOUR // 2,
        }
        for user in USERS
        for n in range(8)
    ]
    settings = {"exposure_log": log, "exposure_cut": True, "fusion_overrides": True, "score_chunk": 7}
    with EmbeddedRedis() as own, serving(folder, registry, own.url, workers=2, **settings) as server:
        with redis.Redis.from_url(own.url) as store:
            for item in ITEMS:
                row = layouts.item.pack({"item_id": item, **item_values(item)})
                store.set(item_key(layouts.fingerprint, item), row)
            for user in USERS:
                row = layouts.user.pack({"user_id": user, **user_values(user)})
                store.set(user_key(layouts.fingerprint, user), row)
        assert server.http.post("/events", json={"events": events}).status_code == 200
        for n in range(40):
            more: dict[str, Any] = {"context": {"tab": n % 4, "hour": n % 24}, "request_id": f"r-{n}"}
            if n % 4 == 1:
                more["top_k"] = 5
            if n % 4 == 2:
                more["fusion"] = {"weights": {"pctr": 2.5}}
            answer = server.rank(ITEMS[n % 10 :], USERS[n % 2], **more)
            assert answer.json()["degraded"] == []
        logged = 'funnelrank_exposure_log_records_total{kind="exposures",outcome="written"} 40.0'
        wait_until(lambda: logged in server.http.get("/metrics").text)
    compact(log)
    write_sources(folder / "tables", events)
    return SimpleNamespace(log=log, registry=registry, tables=folder / "tables", events=events)


def write_sources(folder: Path, events: list[dict[str, Any]], **prices: float) -> Path:
    """The tables that the store was loaded from; `prices` change some items."""
    folder.mkdir(exist_ok=True, parents=True)
    items = [{"item_id": item, **item_values(item)} for item in ITEMS]
    for row in items:
        row["price"] = prices.get(f"item_{row['item_id']}", row["price"])
    pq.write_table(pa.Table.from_pylist(items), folder / "items.parquet")
    pq.write_table(pa.Table.from_pylist([{"user_id": u, **user_values(u)} for u in USERS]), folder / "users.parquet")
    behaviours = [{**event, "time_ms": event["timestamp"]} for event in events]
    pq.write_table(pa.Table.from_pylist(behaviours).drop_columns(["timestamp"]), folder / "behaviours.parquet")
    return folder


@pytest.fixture
def changed(served: SimpleNamespace, tmp_path: Path) -> Any:
    """A copy of the log in which one column of some records is changed."""

    def change(column: str, edit: Any, among: slice = slice(None)) -> Path:
        (path,) = hour_files(served.log, RecordKind.EXPOSURES)
        table = pq.read_table(path)
        rows = sorted(table.to_pylist(), key=lambda row: row["time_ms"])
        for row in rows[among]:
            row[column] = edit(row[column])
        copy = tmp_path / "log"
        (copy / "hours" / path.parent.name).mkdir(parents=True)
        (copy / "spool").mkdir()
        (copy / "schemas").symlink_to(served.log / "schemas")
        pq.write_table(pa.Table.from_pylist(rows, table.schema), copy / "hours" / path.parent.name / path.name)
        return copy

    return change


def test_every_logged_request_replays_bit_for_bit(served: SimpleNamespace) -> None:
    for n in range(40):
        replayed = replay(served.log, served.registry, f"r-{n}")
        assert replayed.differing == []
        assert lines(replayed)[-1] == "every score is the same, bit for bit"


def test_a_record_that_was_changed_does_not_replay(served: SimpleNamespace, changed: Any) -> None:
    def nudged(numerics: bytes) -> bytes:
        values = np.frombuffer(numerics, "<f4").copy()
        values[0] = 99
        return values.tobytes()

    log = changed("item_numerics", nudged, slice(0, 1))
    assert replay(log, served.registry, "r-0").differing == ["pctr", "pcvr", "pctcvr", "score"]
    assert replay(log, served.registry, "r-1").differing == []


def test_another_version_shows_what_it_would_have_ranked(
    served: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["replay", "r-3", "--log", str(served.log), "--registry", str(served.registry)]
    assert main([*words, "--version", "2"]) == 0
    shown = capsys.readouterr().out
    assert "synthetic/2" in shown
    assert "different: pctr, pctcvr, score" in shown
    assert main(words) == 0
    assert "bit for bit" in capsys.readouterr().out


def test_a_request_that_is_not_logged_is_said_so(served: SimpleNamespace, changed: Any) -> None:
    with pytest.raises(LogError, match="no exposure of the request 'none'"):
        replay(served.log, served.registry, "none")
    with pytest.raises(LogError, match="no bundle synthetic/9"):
        replay(served.log, served.registry, "r-0", version="9")
    with pytest.raises(LogError, match="no fusion profile 'x'"):
        replay(served.log, served.registry, "r-0", profile="x")


def test_a_replay_that_differs_unasked_fails(served: SimpleNamespace, changed: Any) -> None:
    log = changed("scores", lambda scores: [score + 1 for score in scores], slice(0, 1))
    assert main(["replay", "r-0", "--log", str(log), "--registry", str(served.registry)]) == 1


def verified(served: SimpleNamespace, log: Path | None = None, tables: Path | None = None) -> Verification:
    return verify(log or served.log, served.registry, tables or served.tables)


def test_what_was_served_equals_what_training_reads(served: SimpleNamespace) -> None:
    done = verified(served)
    assert done.skews == {}
    assert (done.exposures, done.bit_equal, done.compared_rows, done.skipped) == (40, 40, 40, {})


def test_a_late_item_load_is_named_with_its_feature_and_row(served: SimpleNamespace, tmp_path: Path) -> None:
    tables = write_sources(tmp_path / "tables", served.events, item_25=1000.0)
    done = verified(served, tables=tables)
    assert set(done.skews) == {"item.price"}
    skew = done.skews["item.price"]
    assert skew.count == 40
    assert "row '25': served 37.5, computed 1000" in skew.example
    assert "request r-0" in skew.example


def test_a_behaviour_of_the_millisecond_of_the_ranking_is_no_difference(served: SimpleNamespace, changed: Any) -> None:
    # A request without a timestamp sees it; the newest behaviour of the sources is an hour and a half old.
    newest = max(event["timestamp"] for event in served.events)
    done = verified(served, changed("time_ms", lambda time_ms: newest, slice(0, 2)))
    assert done.skews == {}


def test_tables_and_columns_have_the_names_of_the_recipe(served: SimpleNamespace, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    shutil.copytree(served.registry, registry)
    manifest = registry / "synthetic" / "1" / "manifest.json"
    columns = {"user_id": "member", "item_id": "sku", "time_ms": "at"}
    names = columns | {"items": "goods.parquet", "users": "members/"}
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"tables": names}))
    tables = tmp_path / "tables"
    (tables / "members").mkdir(parents=True)
    for name, renamed in {"items": "goods", "users": "members/a", "behaviours": "behaviours"}.items():
        table = pq.read_table(served.tables / f"{name}.parquet")
        table = table.rename_columns([columns.get(column, column) for column in table.column_names])
        pq.write_table(table, tables / f"{renamed}.parquet")
    # A table of the default name that the recipe does not read.
    write_sources(tmp_path / "other", served.events, item_25=1000.0)
    shutil.copy(tmp_path / "other" / "items.parquet", tables)
    done = verify(served.log, registry, tables)
    assert done.skews == {}
    assert done.compared_rows == 40
    for name in ("goods", "items"):
        (tables / f"{name}.parquet").unlink()
    with pytest.raises(LogError, match=r"has no goods\.parquet, which the recipe names as its items"):
        verify(served.log, registry, tables)


@pytest.mark.parametrize("hours", [1, 2])
def test_a_clock_some_hours_off_is_named(served: SimpleNamespace, changed: Any, hours: int) -> None:
    done = verified(served, changed("time_ms", lambda time_ms: time_ms - hours * HOUR, slice(10, None)))
    assert set(done.skews) == {"behaviours"}
    skew = done.skews["behaviours"]
    assert skew.count == 30
    assert "request r-10" in skew.example
    assert "newest" in skew.example


def test_a_changed_transformation_is_named_with_its_first_moment(served: SimpleNamespace, changed: Any) -> None:
    """A service that logs the logarithm of a price from the 21st request on."""

    def log_price(numerics: bytes) -> bytes:
        values = np.frombuffer(numerics, "<f4").reshape(-1, 2).copy()
        values[:, 0] = np.log1p(values[:, 0])
        return values.tobytes()

    done = verified(served, changed("item_numerics", log_price, slice(20, None)))
    skew = done.skews["item.price"]
    times = sorted(row["time_ms"] for row in pq.read_table(hour_files(served.log, RecordKind.EXPOSURES)[0]).to_pylist())
    assert skew.first_ms == times[20]
    assert "task pctr" in done.skews  # the scores were computed from other rows than those that are logged
    assert done.bit_equal == 20


def test_the_command_fails_where_something_differs(
    served: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["verify-log", "--log", str(served.log), "--registry", str(served.registry)]
    assert main([*words, "--tables", str(served.tables)]) == 0
    assert "40 exposures, 40 scored the same bit for bit" in capsys.readouterr().out
    tables = write_sources(tmp_path / "tables", served.events, item_25=1000.0)
    assert main([*words, "--tables", str(tables)]) == 1
    assert "item.price" in capsys.readouterr().err
    assert main([*words, "--share", "0.2"]) == 0


def test_the_compaction_verifies_what_it_wrote_and_the_service_counts_it(
    served: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An hourly job: a difference is an exit code for its scheduler, and a metric for the alarm."""
    log = tmp_path / "log"
    tables = write_sources(tmp_path / "tables", served.events, item_25=1000.0)
    with EmbeddedRedis() as own, serving(tmp_path, served.registry, own.url, exposure_log=log) as server:
        assert server.rank(["25"]).status_code == 200
        wait_until(lambda: 'outcome="written"} 1.0' in server.http.get("/metrics").text)
    words = ["compact", "--log", str(log), "--verify", str(served.registry), "--share", "1", "--tables", str(tables)]
    assert main(words) == 1
    assert "item.price: 1 differ" in capsys.readouterr().err
    assert main(words) == 0  # nothing new was written, so nothing is verified again
    with EmbeddedRedis() as own, serving(tmp_path, served.registry, own.url, exposure_log=log) as server:
        wait_until(lambda: 'funnelrank_exposure_log_skews{name="item.price"} 1.0' in server.http.get("/metrics").text)


def test_a_bundle_that_is_gone_is_counted(served: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = verify(served.log, tmp_path / "empty")
    assert done.skipped == {"the bundle synthetic/1 is not in the registry": 40}
