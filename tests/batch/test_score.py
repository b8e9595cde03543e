"""Tests batch scoring: equal to a live service bit for bit, resumable after a kill, whole partitions or none."""

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from batch_runs import (
    CONTEXT,
    NOW,
    ROOT,
    assert_equal,
    command_of,
    filled,
    rankings,
    score_by_command,
    score_here,
    write_users,
)
from child_process import child
from running_service import serving, wait_until
from small_disk import files_of_at_most
from synthetic_bundle import go_live, publish

from batch.errors import BatchError
from batch.users import open_users
from service.files import exclusive_lock
from service.sample.embedded_redis import EmbeddedRedis


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    folder = tmp_path_factory.mktemp("batch")
    with EmbeddedRedis() as server:
        yield SimpleNamespace(folder=folder, settings=filled(folder, server.url), redis_url=server.url)


def test_a_batch_equals_a_live_service_bit_for_bit(stored: SimpleNamespace, tmp_path: Path) -> None:
    # One candidate, several chunks, and lists with unknown items, for known and unknown users.
    lists = {"u1": ["5"], "u2": [str(i) for i in range(2000)], "stranger": [str(i) for i in range(2080, 2130)]}
    lists |= {f"u{user}": [str(i) for i in range(user, user + 40)] for user in range(3, 20)}
    users = write_users(tmp_path / "users.parquet", lists)
    files = ["--users", users, "--out", tmp_path / "out"]
    done = score_by_command(stored.settings, *files, "--partition-users", 6, "--processes", 2)
    assert done.returncode == 0, done.stderr
    assert "20 of 20 users, 2,731 pairs" in done.stdout
    assert "CPU s per million pairs" in done.stdout
    batch = rankings(tmp_path / "out")
    others = {name: value for name, value in stored.settings.items() if name == "fusion_file"}
    pairs = 0
    with serving(stored.folder, Path(stored.settings["registry"]), stored.redis_url, **others) as server:
        for user, candidates in lists.items():
            body = {"user_id": user, "candidates": candidates, "context": CONTEXT, "scene": "home", "timestamp": NOW}
            answer = server.http.post("/rank", json=body)
            assert answer.status_code == 200, answer.text
            pairs += assert_equal(batch[user], answer.json())
    assert list(batch) == list(lists)
    # The rules of the scene block item 11.
    assert pairs == 2731 - sum("11" in candidates for candidates in lists.values())


def test_a_killed_run_continues_and_ends_with_the_same_files(stored: SimpleNamespace, tmp_path: Path) -> None:
    lists = {f"u{user}": [str(i) for i in range(300)] for user in range(400)}
    users = write_users(tmp_path / "users.parquet", lists)
    arguments = ["--users", users, "--partition-users", 10, "--processes", 1, "--top-k", 5]
    command, environment = command_of(stored.settings, *arguments, "--out", tmp_path / "out")
    with child(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: len(list((tmp_path / "out").glob("part-*.parquet"))) >= 2)
        process.send_signal(signal.SIGKILL)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*.parquet")}
    assert len(written) < 40
    assert not (tmp_path / "out" / "done.json").exists()
    # A file that the killed run did not complete.
    (tmp_path / "out" / ".part-000039.parquet.abcd").write_bytes(b"half")
    counts = score_here(stored.settings, users, tmp_path / "out", top_k=5, partition_users=10)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert list((tmp_path / "out").glob(".part-*")) == []
    score_here(stored.settings, users, tmp_path / "whole", top_k=5, partition_users=10)
    assert rankings(tmp_path / "out") == rankings(tmp_path / "whole")
    assert json.loads((tmp_path / "out" / "done.json").read_text()) == asdict(counts)
    assert (counts.users, counts.pairs, counts.rows) == (400, 120_000, 2000)


def test_a_full_disk_leaves_no_partition_and_the_run_continues(stored: SimpleNamespace, tmp_path: Path) -> None:
    users = write_users(tmp_path / "users.parquet", {f"u{user}": [str(i) for i in range(800)] for user in range(6)})
    out = tmp_path / "out"
    with files_of_at_most(8000), pytest.raises(OSError, match="File too large") as caught:
        score_here(stored.settings, users, out, partition_users=3)
    assert str(caught.value.filename).endswith("part-000000.parquet")
    assert sorted(path.name for path in out.iterdir()) == [".lock", "job.json"]
    assert score_here(stored.settings, users, out, partition_users=3).pairs == 4800
    assert sorted(rankings(out)) == [f"u{user}" for user in range(6)]


def test_another_run_is_refused_in_the_folder(stored: SimpleNamespace, tmp_path: Path) -> None:
    users = write_users(tmp_path / "users.parquet", {"u1": ["1", "2"]})
    out = tmp_path / "out"
    first = score_here(stored.settings, users, out)
    assert score_here(stored.settings, users, out) == first
    with pytest.raises(BatchError, match="another run was begun here; changed since: top_k"):
        score_here(stored.settings, users, out, top_k=1)
    with pytest.raises(BatchError, match="changed since: score_chunk"):
        score_here(stored.settings | {"score_chunk": "7"}, users, out)
    with exclusive_lock(out / ".lock", 0), pytest.raises(BatchError, match="another run writes here"):
        score_here(stored.settings, users, out)


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([], "at least 1 item"),
        (["1", "1"], "ids must be unique"),
        ([str(i) for i in range(2001)], "2001 candidates, 2000 are allowed"),
    ],
)
def test_a_list_that_the_service_refuses_is_refused(
    stored: SimpleNamespace, tmp_path: Path, candidates: list[str], message: str
) -> None:
    users = write_users(tmp_path / "users.parquet", {"u1": candidates})
    with pytest.raises(BatchError, match=f"user 'u1': .*{message}"):
        score_here(stored.settings, users, tmp_path / "out")


def test_a_version_that_cannot_be_loaded_ends_the_run(stored: SimpleNamespace, tmp_path: Path) -> None:
    # The service would serve an earlier version, and withdraw this one.
    registry = tmp_path / "registry"
    shutil.copytree(stored.settings["registry"], registry)
    publish(registry, "2")
    go_live(registry, "2")
    (registry / "synthetic" / "2" / "model.onnx").write_bytes(b"other")
    before = (registry / "rollout.json").read_bytes()
    users = write_users(tmp_path / "users.parquet", {"u1": ["1"]})
    with pytest.raises(BatchError, match="synthetic/2 cannot be used: hash_mismatch"):
        score_here(stored.settings | {"registry": str(registry)}, users, tmp_path / "out")
    assert (registry / "rollout.json").read_bytes() == before


def test_partitions_do_not_depend_on_how_the_table_is_cut(tmp_path: Path) -> None:
    lines = ["user_id,candidates", *(f"u{i},a|b" for i in range(7))]
    (tmp_path / "users.csv").write_text("\n".join(lines))
    table = write_users(tmp_path / "users.parquet", {f"u{i}": ["a", "b"] for i in range(7)})
    from_csv = list(open_users(tmp_path / "users.csv", None).partitions(3))
    assert from_csv == list(open_users(table, None).partitions(3))
    assert [partition.users for partition in from_csv] == [["u0", "u1", "u2"], ["u3", "u4", "u5"], ["u6"]]
    (tmp_path / "items.csv").write_text("item_id\n9\n8\n")
    shared = open_users(table, tmp_path / "items.csv")
    assert shared.shared == ["9", "8"]
    assert [partition.candidates for partition in shared.partitions(4)] == [None, None]
