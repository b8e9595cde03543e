"""Tests batch scoring: equal to a live service bit for bit, resumable after a kill, whole partitions or none."""

import json
import pickle
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from batch_runs import (
    LISTS,
    ROOT,
    assert_as_served,
    command_of,
    filled,
    rankings,
    score_by_command,
    score_here,
    write_users,
)
from child_process import child
from object_dialects import DIALECTS
from object_store import empty_bucket
from running_service import wait_until
from small_disk import files_of_at_most
from synthetic_bundle import go_live, publish

from batch.errors import BatchError
from batch.users import open_users
from service.clock import now_ms
from service.files import exclusive_lock
from service.sample.embedded_redis import EmbeddedRedis
from tables.files import objects


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    folder = tmp_path_factory.mktemp("batch")
    with EmbeddedRedis() as server:
        yield SimpleNamespace(folder=folder, settings=filled(folder, server.url), redis_url=server.url)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_batch_equals_a_live_service_bit_for_bit(stored: SimpleNamespace, tmp_path: Path, threads: str) -> None:
    # The threads and the chunks of a ranking can change its last bits, so a batch has those of the service.
    settings = stored.settings | {"model_threads": threads, "score_chunk": "256" if threads == "2" else "1000"}
    users = write_users(tmp_path / "users.parquet", LISTS)
    files = ["--users", users, "--out", tmp_path / "out"]
    done = score_by_command(settings, *files, "--partition-users", 6, "--processes", 2)
    assert done.returncode == 0, done.stderr
    assert "20 of 20 users, 2,731 pairs" in done.stdout
    assert "CPU s per million pairs" in done.stdout
    # The rules of the scene block item 11.
    blocked = sum("11" in candidates for candidates in LISTS.values())
    assert assert_as_served(tmp_path / "out", settings) == 2731 - blocked


@pytest.mark.parametrize(("rules", "blocked"), [("strict", {"12", "13"}), ("", set())])
def test_a_batch_with_chosen_documents_equals_the_preview(
    stored: SimpleNamespace, tmp_path: Path, rules: str, blocked: set[str]
) -> None:
    users = write_users(tmp_path / "users.parquet", LISTS)
    score_here(stored.settings, users, tmp_path / "out", profile="default", rules=rules)
    pairs = assert_as_served(tmp_path / "out", stored.settings, "/rank/preview", profile="default", rules=rules)
    assert pairs == 2731 - sum(len(blocked & set(candidates)) for candidates in LISTS.values())


def test_a_profile_that_does_not_exist_is_refused(stored: SimpleNamespace, tmp_path: Path) -> None:
    users = write_users(tmp_path / "users.parquet", {"u1": ["1"]})
    with pytest.raises(BatchError, match="profile 'absent'"):
        score_here(stored.settings, users, tmp_path / "out", profile="absent")
    with pytest.raises(BatchError, match="rules 'absent'"):
        score_here(stored.settings, users, tmp_path / "out2", rules="absent")


def test_users_in_a_folder_are_those_of_one_file(stored: SimpleNamespace, tmp_path: Path) -> None:
    users = write_users(tmp_path / "users.parquet", LISTS)
    names = list(LISTS)
    for day, part in enumerate((names[:2], names[2:9], names[9:])):
        folder = tmp_path / "days" / f"date=0{day}"
        folder.mkdir(parents=True)
        write_users(folder / "part.parquet", {name: LISTS[name] for name in part})
    score_here(stored.settings, users, tmp_path / "one", partition_users=6)
    counts = score_here(stored.settings, tmp_path / "days", tmp_path / "out", partition_users=6)
    assert rankings(tmp_path / "out") == rankings(tmp_path / "one")
    assert counts.users == 20
    assert len(list((tmp_path / "out").glob("part-*.parquet"))) == 4
    # Another file in the folder is another run.
    write_users(tmp_path / "days" / "more.parquet", {"u30": ["1"]})
    with pytest.raises(BatchError, match="changed since: users"):
        score_here(stored.settings, tmp_path / "days", tmp_path / "out", partition_users=6)


@pytest.mark.parametrize("scheme", DIALECTS)
def test_users_and_candidates_come_from_a_bucket(
    stored: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    lists = {name: [str(i) for i in range(30)] for name in ("u1", "u2", "u3")}
    local = write_users(tmp_path / "users.parquet", lists)
    with empty_bucket(monkeypatch, scheme) as bucket:
        objects._store.cache_clear()
        bucket.objects["ranking/users/day=1/a.csv"] = b"user_id\nu1\nu2\n"
        bucket.objects["ranking/users/day=2/a.csv"] = b"user_id\nu3\n"
        bucket.objects["ranking/items.csv"] = b"item_id\n" + b"".join(b"%d\n" % item for item in range(30))
        users, items = f"{bucket.uri}/users", f"{bucket.uri}/items.csv"
        score_here(stored.settings, users, tmp_path / "out", candidates=items)
        score_here(stored.settings, local, tmp_path / "here")
        assert rankings(tmp_path / "out") == rankings(tmp_path / "here")
        bucket.objects["ranking/users/day=2/a.csv"] = b"user_id\nu4\n"
        with pytest.raises(BatchError, match="changed since: users"):
            score_here(stored.settings, users, tmp_path / "out", candidates=items)
        objects._store.cache_clear()


def test_a_wrong_row_is_named_by_the_process_that_scores_it(stored: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user_id,candidates\nu1,1|2\nu2,1\n,3\n")
    files = ["--users", tmp_path / "users.csv", "--out", tmp_path / "out", "--partition-users", 2]
    done = score_by_command(stored.settings, *files, "--processes", 1)
    assert done.returncode == 1
    assert "users.csv (users): column 'user_id' has a missing id (row 3)" in done.stderr
    # The partitions before it stay.
    assert list(rankings(tmp_path / "out")) == ["u1", "u2"]


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


def test_files_of_a_run_that_nothing_describes_count_for_no_other_run(stored: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    users = write_users(tmp_path / "users.parquet", {"u1": ["1"], "u2": ["2"]})
    score_here(stored.settings, users, out, partition_users=1)
    (out / "job.json").unlink()
    # A run of as many users in its first partition would take it for its own.
    others = write_users(tmp_path / "others.parquet", {"u3": ["3"]})
    with pytest.raises(BatchError, match=r"files of another run, such as part-000000\.parquet, and no job\.json"):
        score_here(stored.settings, others, out, partition_users=1)
    assert list(rankings(out)) == ["u1", "u2"]


def test_a_run_that_wrote_nothing_is_replaced(stored: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    users = write_users(tmp_path / "users.parquet", {"u1": ["1"]})
    with pytest.raises(BatchError, match="nope"):
        score_here(stored.settings, users, out, context={"nope": 1})
    assert score_here(stored.settings, users, out).users == 1
    # Nor has a run without users written anything; what it said of its end goes with it.
    none = write_users(tmp_path / "none.parquet", {})
    assert score_here(stored.settings, none, tmp_path / "empty").users == 0
    with pytest.raises(BatchError, match="nope"):
        score_here(stored.settings, users, tmp_path / "empty", context={"nope": 1})
    assert not (tmp_path / "empty" / "done.json").exists()
    # From the first partition on, only the same run continues.
    with pytest.raises(BatchError, match="changed since: context"):
        score_here(stored.settings, users, out, context={"tab": 3})


@pytest.mark.parametrize("text", ["[]", "{}", '{"options": []}', '{"options": {"timestamp": 5}}'])
def test_a_description_of_something_else_is_refused(stored: SimpleNamespace, tmp_path: Path, text: str) -> None:
    users = write_users(tmp_path / "users.parquet", {"u1": ["1"]})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "job.json").write_text(text)
    with pytest.raises(BatchError, match=r"job\.json describes no batch run"):
        score_here(stored.settings, users, tmp_path / "out")


def test_a_second_command_is_refused_while_the_first_one_runs(stored: SimpleNamespace, tmp_path: Path) -> None:
    """Two processes of the command, which import the service: that is what takes seconds."""
    lists = {f"u{user}": [str(i) for i in range(100)] for user in range(40)}
    users = write_users(tmp_path / "users.parquet", lists)
    out = tmp_path / "out"
    arguments = ["--users", users, "--partition-users", 10, "--processes", 1, "--top-k", 5, "--out", out]
    command, environment = command_of(stored.settings, *arguments)
    with child(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as first:
        wait_until((out / "job.json").exists)
        first.send_signal(signal.SIGSTOP)
        second = score_by_command(stored.settings, *arguments)
        first.send_signal(signal.SIGCONT)
        assert first.wait(60) == 0
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr == f"error: {out}: another run writes here\n"
    assert {user: [row["rank"] for row in rows] for user, rows in rankings(out).items()} == {
        user: [1, 2, 3, 4, 5] for user in lists
    }


def test_a_run_without_a_time_ranks_as_of_its_begin_also_when_it_is_continued(
    stored: SimpleNamespace, tmp_path: Path
) -> None:
    users = write_users(tmp_path / "users.parquet", {f"u{user}": ["1", "2"] for user in range(4)})
    out = tmp_path / "out"
    before = now_ms()
    score_here(stored.settings, users, out, partition_users=2, timestamp=None)
    begun = json.loads((out / "job.json").read_text())["options"]["timestamp"]
    assert before <= begun <= now_ms()
    (out / "part-000001.parquet").unlink()
    wait_until(lambda: now_ms() > begun)
    score_here(stored.settings, users, out, partition_users=2, timestamp=None)
    assert json.loads((out / "job.json").read_text())["options"]["timestamp"] == begun
    assert len(rankings(out)) == 4
    # What has no partition is no run that goes on.
    for path in out.glob("part-*.parquet"):
        path.unlink()
    score_here(stored.settings, users, out, partition_users=2, timestamp=None)
    assert json.loads((out / "job.json").read_text())["options"]["timestamp"] > begun


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
    from_csv = list(open_users(str(tmp_path / "users.csv"), None)[0].partitions(3))
    from_parquet = list(open_users(str(table), None)[0].partitions(3))
    assert [partition.users() for partition in from_csv] == [["u0", "u1", "u2"], ["u3", "u4", "u5"], ["u6"]]
    assert [partition.users() for partition in from_parquet] == [partition.users() for partition in from_csv]
    for partition in (*from_csv, *from_parquet):
        assert partition.candidates() == [["a", "b"]] * len(partition)
    (tmp_path / "items.csv").write_text("item_id\n9\n8\n")
    shared, _ = open_users(str(table), str(tmp_path / "items.csv"))
    assert shared.shared == ["9", "8"]
    assert [partition.users() for partition in shared.partitions(4)] == [["u0", "u1", "u2", "u3"], ["u4", "u5", "u6"]]


def test_a_partition_is_sent_without_the_rows_of_the_others(tmp_path: Path) -> None:
    lines = ["user_id,candidates", *(f"u{i},a|b|c" for i in range(5000))]
    (tmp_path / "users.csv").write_text("\n".join(lines))
    sizes = [len(pickle.dumps(part)) for part in open_users(str(tmp_path / "users.csv"), None)[0].partitions(100)]
    assert len(sizes) == 50
    assert sum(sizes) < 10 * (tmp_path / "users.csv").stat().st_size
