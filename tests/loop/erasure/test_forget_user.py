"""Tests the erasure of a user: nothing of the user is left in Redis, the log and the tables, all else is unchanged."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis as redis_client
import yaml
from log_files import EVENTS, FIRST, HOUR, crashed, event, write
from logged_tables import LOG_SECTION, Shown
from small_tables import RECIPE, make_tables, merged

from funnelrank.main import main
from loop.erasure import log as log_erasure
from loop.erasure.log import forget_in_log
from loop.erasure.tables import forget_in_tables
from loop.errors import LogError
from loop.join.join import join
from loop.log.compact import compact
from loop.log.hours import hour_files
from models.recipe import parse_recipe
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.forget_user import forget_user
from tables.log_records import RecordKind

EXPOSURES = RecordKind.EXPOSURES
IMPRESSIONS = RecordKind.IMPRESSIONS
FINGERPRINTS = ("0123456789abcdef", "fedcba9876543210")


@pytest.fixture(scope="module")
def redis_server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def store(redis_server: EmbeddedRedis) -> Iterator[Any]:
    with redis_client.Redis.from_url(redis_server.url) as client:
        client.flushall()
        client.hset("fr:schemas", FINGERPRINTS[0], "{}")
        yield client


def exposure(request: str, user: str, at: int = FIRST) -> dict[str, Any]:
    return {"request_id": request, "user_id": user, "time_ms": at, "logged_ms": at}


def impression(request: str, at: int = FIRST) -> dict[str, Any]:
    return {"impression_id": f"i-{request}", "request_id": request, "item_id": "1", "time_ms": at, "logged_ms": at}


def of_user(name: str, user: str, at: int = FIRST) -> dict[str, Any]:
    return event(name, at) | {"user_id": user}


def values(log: Path, kind: RecordKind, column: str) -> list[str]:
    return sorted(value for path in hour_files(log, kind) for value in pq.read_table(path)[column].to_pylist())


def put_user(store: Any, user: str) -> int:
    """Write a key of every kind for a user, one schema listed and one not; return their number."""
    for fingerprint in FINGERPRINTS:
        store.set(f"fr:{fingerprint}:u:{{{user}}}", b"row")
        store.zadd(f"fr:{fingerprint}:s:{{{user}}}", {b"behaviour": 1})
        store.hset(f"fr:{fingerprint}:cu:{{{user}}}", "0", b"cell")
    store.set(f"fr:shown:{{{user}}}", b"items")
    return 7


@pytest.mark.parametrize("user", ["712", "a*[b]?\\^{c}", "ü:u:{7}"])
def test_every_key_of_the_user_is_deleted_and_no_other(store: Any, redis_server: EmbeddedRedis, user: str) -> None:
    for other in ("7", "7122", "x712", "aXb"):
        put_user(store, other)
    # An item and a scene may be named like the key of a user.
    store.set(f"fr:{FINGERPRINTS[0]}:i:u:{{{user}}}", b"item")
    store.set(f"fr:{FINGERPRINTS[0]}:cs:{{{user}}}", b"scene")
    others = store.dbsize()
    assert forget_user(redis_server.url, user) == (0, [])
    count = put_user(store, user)
    assert forget_user(redis_server.url, user) == (count, [])
    assert store.dbsize() == others


def test_the_log_loses_the_users_records_of_hours_spool_and_damaged_files(tmp_path: Path) -> None:
    write(tmp_path, exposure("r1", "712"), exposure("r2", "8"), kind=EXPOSURES)
    write(tmp_path, impression("r1"), impression("r2", FIRST + HOUR), kind=IMPRESSIONS)
    compact(tmp_path)
    write(tmp_path, of_user("a", "712"), of_user("b", "8"))
    crashed(write(tmp_path, exposure("r3", "712"), exposure("r4", "8"), kind=EXPOSURES, batches=2), cut=0)
    write(tmp_path, impression("r3"), impression("r4"), kind=IMPRESSIONS)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "events-x.arrows").write_bytes(b"712")
    removed, left = forget_in_log(tmp_path, "712")
    assert left == {}
    assert removed["damaged"] == 1
    assert values(tmp_path, EXPOSURES, "user_id") == ["8", "8"]
    assert values(tmp_path, IMPRESSIONS, "request_id") == ["r2", "r4"]
    assert values(tmp_path, EVENTS, "event_id") == ["b"]
    assert forget_in_log(tmp_path, "712") == (dict.fromkeys(removed, 0), {})


def test_a_file_of_a_living_worker_is_reported_and_compacted_without_the_user(tmp_path: Path) -> None:
    write(tmp_path, impression("r1"), impression("r2"), kind=IMPRESSIONS)
    path = crashed(write(tmp_path, exposure("r1", "712"), exposure("r2", "8"), kind=EXPOSURES))
    with path.open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        _, left = forget_in_log(tmp_path, "712")
        assert left == {str(path): 1}
        # The exposure is in the open file alone, and yet its impression is known and removed.
        assert values(tmp_path, IMPRESSIONS, "request_id") == ["r2"]
    compact(tmp_path)
    assert values(tmp_path, EXPOSURES, "request_id") == ["r2"]
    # An impression that comes later is left out, and a ranking for the user who came back is not.
    later = 1 << 42
    write(tmp_path, impression("r1", later), impression("r5", later), kind=IMPRESSIONS)
    write(tmp_path, exposure("r5", "712", later), kind=EXPOSURES)
    compact(tmp_path)
    assert values(tmp_path, EXPOSURES, "request_id") == ["r2", "r5"]
    assert values(tmp_path, IMPRESSIONS, "request_id") == ["r2", "r5"]


def test_a_request_that_is_first_seen_in_a_compaction_takes_its_impressions_along(tmp_path: Path) -> None:
    write(tmp_path, exposure("r0", "8"), kind=EXPOSURES)
    forget_in_log(tmp_path, "712")
    write(tmp_path, exposure("r1", "712"), kind=EXPOSURES)
    compact(tmp_path)
    write(tmp_path, impression("r1"), kind=IMPRESSIONS)
    compact(tmp_path)
    assert (values(tmp_path, EXPOSURES, "user_id"), values(tmp_path, IMPRESSIONS, "request_id")) == (["8"], [])


@pytest.mark.parametrize("after", range(1, 5))
def test_an_erasure_that_was_killed_is_completed_by_the_next(tmp_path: Path, after: int) -> None:
    for hour in range(2):
        at = FIRST + hour * HOUR
        write(tmp_path, exposure(f"r{hour}", "712", at), exposure(f"x{hour}", "8", at), kind=EXPOSURES)
        write(tmp_path, impression(f"r{hour}", at), impression(f"x{hour}", at), kind=IMPRESSIONS)
    compact(tmp_path)
    # The process kills itself with SIGKILL while it writes a file of an hour: the temporary file stays.
    program = f"""
import os, signal
from pathlib import Path
from loop.log import hours
from loop.erasure.log import forget_in_log
real, calls = hours.replacing, 0
def replacing(path):
    global calls
    calls += 1
    if calls == {after}:
        (path.parent / f".{{path.name}}.abc").write_bytes(path.read_bytes())
        os.kill(os.getpid(), signal.SIGKILL)
    return real(path)
hours.replacing = replacing
forget_in_log(Path({str(tmp_path)!r}), "712")
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    _, left = forget_in_log(tmp_path, "712")
    assert left == {}
    assert values(tmp_path, EXPOSURES, "request_id") == ["x0", "x1"]
    assert values(tmp_path, IMPRESSIONS, "request_id") == ["x0", "x1"]
    assert not list((tmp_path / "hours").glob("*/.*"))


def test_the_search_does_not_trust_the_deletion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, exposure("r1", "712"), kind=EXPOSURES)
    compact(tmp_path)
    monkeypatch.setattr(log_erasure, "rewrite_hour", lambda *_: 0)
    (path,) = hour_files(tmp_path, EXPOSURES)
    assert forget_in_log(tmp_path, "712")[1] == {str(path): 1}


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A compacted log of the small tables, and its joined tables."""
    folder = tmp_path_factory.mktemp("joined")
    tables = make_tables()
    tables["impressions"] = tables["impressions"].sort_values("time_ms").head(300)
    shown = Shown(tables, RECIPE["features"])
    rows = shown.rows()
    last = max(record["logged_ms"] for record in rows[EXPOSURES]) + 3 * HOUR
    rows[EVENTS].append(of_user("last", "nobody", last))
    log = shown.write(folder / "log", rows)
    recipe = parse_recipe(merged(RECIPE | {"log": LOG_SECTION}, {"data.dir": str(folder)}), "test")
    join(log, recipe, folder / "data")
    return log, folder / "data"


def test_the_command_erases_a_user_everywhere_and_fails_while_something_is_left(
    joined: tuple[Path, Path],
    store: Any,
    redis_server: EmbeddedRedis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log, data = joined
    monkeypatch.setenv("FUNNELRANK_REDIS_URL", redis_server.url)
    impressions = pq.read_table(data / "impressions.parquet").to_pandas()
    user = str(impressions["user_id"].mode()[0])
    own = set(impressions[impressions["user_id"] == user]["user_row"])
    before = {path.name: pq.read_table(path) for path in data.glob("*.parquet")}
    put_user(store, user)
    command = ["forget-user", user, "--log", str(log), "--tables", str(data)]
    assert main(command) == 0, capsys.readouterr().err
    assert "nothing of the user is left" in capsys.readouterr().out
    assert user not in values(log, EXPOSURES, "user_id")
    for name in ("users", "behaviours", "impressions"):
        table = pq.read_table(data / f"{name}.parquet")
        old = before[f"{name}.parquet"].to_pandas()
        rest = old[~old["user_row"].isin(own)]
        assert 0 < len(rest) < len(old)
        # The other rows, their order and the declarations of the columns stay.
        assert table.to_pandas().equals(rest.reset_index(drop=True))
        assert table.schema.equals(before[f"{name}.parquet"].schema, check_metadata=True)
    # A living worker's file has the user: the command fails until it is closed.
    path = crashed(write(log, exposure("new", user), kind=EXPOSURES))
    with path.open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        assert main(command) == 1
        assert path.name in capsys.readouterr().err
    assert main(command) == 0


def test_tables_that_cannot_be_rewritten_are_refused(
    tmp_path: Path, store: Any, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("FUNNELRANK_REDIS_URL", redis_server.url)
    assert main(["forget-user", "7", "--tables", str(tmp_path)]) == 1
    (tmp_path / "users.csv").write_text("user_id\n7\n")
    assert main(["forget-user", "7", "--tables", str(tmp_path)]) == 1
    assert main(["forget-user", "7", "--log", str(tmp_path)]) == 1
    assert main(["forget-user", ""]) == 2
    errors = capsys.readouterr().err
    for message in ("has no tables", "users.csv, which are not rewritten", "no exposure log", "names no user"):
        assert message in errors


def test_users_of_every_type_of_id_are_found(tmp_path: Path) -> None:
    for name, ids in {"floats": [7.0, 8.0, None], "integers": [7, 8, 7], "texts": ["7", "07", "7.0"]}.items():
        pq.write_table(pa.table({"user_id": pa.array(ids), "n": [1, 2, 3]}), tmp_path / f"{name}.parquet")
    decimals = pa.array([7, 8, 9]).cast(pa.decimal128(24, 2))
    pq.write_table(pa.table({"user_id": decimals, "n": [1, 2, 3]}), tmp_path / "decimals.parquet")
    removed, left = forget_in_tables(tmp_path, "7")
    assert removed == {"decimals.parquet": 1, "floats.parquet": 1, "integers.parquet": 2, "texts.parquet": 1}
    assert left == {}
    # Another text is another user.
    assert forget_in_tables(tmp_path, "07")[0]["texts.parquet"] == 1
    assert pq.read_table(tmp_path / "floats.parquet")["n"].to_pylist() == [2, 3]


def test_tables_whose_users_cannot_be_seen_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["7"]}), tmp_path / "items.parquet")
    pq.write_table(pa.table({"member": ["7"]}), tmp_path / "members.parquet")
    with pytest.raises(LogError, match=r"members\.parquet has neither a column 'user_id' nor 'user_row'"):
        forget_in_tables(tmp_path, "7")
    (tmp_path / "members.parquet").unlink()
    (tmp_path / "impressions" / "date=1").mkdir(parents=True)
    pq.write_table(pa.table({"user_id": ["7"]}), tmp_path / "impressions" / "date=1" / "a.parquet")
    with pytest.raises(LogError, match=r"tables in folders, such as impressions/date=1/a\.parquet"):
        forget_in_tables(tmp_path, "7")


def test_a_join_that_was_killed_is_named(joined: tuple[Path, Path]) -> None:
    _, data = joined
    (data / ".join-x").mkdir()
    with pytest.raises(RuntimeError, match=r"\.join-x: a join runs there, or was killed"):
        forget_in_tables(data, "1")
    (data / ".join-x").rmdir()
    recipe = yaml.safe_load((data / "recipe.yaml").read_text())
    assert recipe["data"]["served"] is True
