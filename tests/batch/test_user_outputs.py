"""Tests the vectors of users that a batch writes: those of the graph, one row per user, and what is refused."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from batch_runs import filled, rankings, score_by_command, score_here, write_users
from small_disk import files_of_at_most
from synthetic_bundle import go_live, publish, with_vectors

from batch.errors import BatchError
from service.sample.embedded_redis import EmbeddedRedis

OUTPUT = "user_representation"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """What `filled` stores, and version 2 of its model with vectors, which is live."""
    folder = tmp_path_factory.mktemp("batch")
    with EmbeddedRedis() as server:
        settings = filled(folder, server.url)
        registry = Path(settings["registry"])
        with_vectors(publish(registry, "2"))
        go_live(registry, "2")
        yield SimpleNamespace(settings=settings)


def vectors_in(out: Path) -> dict[str, list[float]]:
    rows = [row for path in sorted(out.glob("users-*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert all(row["model"] == "synthetic/2" for row in rows)
    return {row["user_id"]: row[OUTPUT] for row in rows}


def test_every_user_has_one_row_with_the_vector_of_the_graph(stored: SimpleNamespace, tmp_path: Path) -> None:
    # The rules block the only item of u4, so that no ranking of it is written.
    lists = {f"u{user}": [str(i) for i in range(20 * user)] for user in range(1, 4)} | {"u4": ["11"], "u9": ["5"]}
    users = write_users(tmp_path / "users.parquet", lists)
    done = score_by_command(
        stored.settings, "--users", users, "--out", tmp_path / "out", "--user-output", OUTPUT, "--partition-users", 2
    )
    assert done.returncode == 0, done.stderr
    # The synthetic graph gives the user's numbers, 0 where they are missing; u3 and u9 have no row.
    expected = {f"u{user}": [np.float32(user / 7) if user % 3 else 0.0] for user in (1, 2, 3, 4, 9)}
    assert vectors_in(tmp_path / "out") == expected
    assert list(pq.read_schema(tmp_path / "out" / "users-000000.parquet").names) == [
        "user_id",
        OUTPUT,
        "model",
        "degraded",
    ]
    # The rankings are those of a run without vectors, and no row of them has one.
    score_here(stored.settings, users, tmp_path / "plain", partition_users=2)
    assert rankings(tmp_path / "out") == rankings(tmp_path / "plain")
    assert list((tmp_path / "plain").glob("users-*")) == []


def test_a_run_without_the_vectors_is_another_run(stored: SimpleNamespace, tmp_path: Path) -> None:
    users = write_users(tmp_path / "users.parquet", {f"u{user}": ["1"] for user in range(4)})
    out = tmp_path / "out"
    score_here(stored.settings, users, out, partition_users=2, user_outputs=(OUTPUT,))
    # A run that was killed between the two files of a partition writes both again.
    (out / "part-000001.parquet").unlink()
    (out / ".users-000001.parquet.abcd").write_bytes(b"half")
    score_here(stored.settings, users, out, partition_users=2, user_outputs=(OUTPUT,))
    assert sorted(vectors_in(out)) == ["u0", "u1", "u2", "u3"] and list(out.glob(".users-*")) == []
    with pytest.raises(BatchError, match="another run was begun here; changed since: user_outputs"):
        score_here(stored.settings, users, out, partition_users=2)


def test_a_partition_whose_users_were_removed_is_written_again(stored: SimpleNamespace, tmp_path: Path) -> None:
    users = write_users(tmp_path / "users.parquet", {f"u{user}": ["1", "2"] for user in range(4)})
    out = tmp_path / "out"
    options = {"partition_users": 2, "user_outputs": (OUTPUT,)}
    first = score_here(stored.settings, users, out, **options)
    vectors = vectors_in(out)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    (out / "users-000001.parquet").unlink()
    second = score_here(stored.settings, users, out, **options)
    assert (second.users, second.pairs, second.rows) == (first.users, first.pairs, first.rows)
    assert vectors_in(out) == vectors and len(vectors) == 4
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    # Both files of the partition are of one moment, and the other partition stays.
    assert {name for name in before if after[name] != before[name]} == {"part-000001.parquet", "users-000001.parquet"}


def test_rankings_of_before_never_stand_beside_vectors_of_now(stored: SimpleNamespace, tmp_path: Path) -> None:
    users = write_users(tmp_path / "users.parquet", {f"u{user}": [str(i) for i in range(800)] for user in range(6)})
    out = tmp_path / "out"
    options = {"partition_users": 3, "user_outputs": (OUTPUT,)}
    score_here(stored.settings, users, out, **options)
    (out / "users-000001.parquet").unlink()
    with files_of_at_most(8000), pytest.raises(OSError, match="File too large"):
        score_here(stored.settings, users, out, **options)
    assert sorted(path.name for path in out.glob("*.parquet")) == [
        "part-000000.parquet",
        "users-000000.parquet",
        "users-000001.parquet",
    ]
    assert score_here(stored.settings, users, out, **options).users == 6


def test_users_that_are_damaged_or_of_another_run_are_refused(stored: SimpleNamespace, tmp_path: Path) -> None:
    users = write_users(tmp_path / "users.parquet", {f"u{user}": ["1"] for user in range(3)})
    out = tmp_path / "out"
    options = {"partition_users": 2, "user_outputs": (OUTPUT,)}
    score_here(stored.settings, users, out, **options)
    shutil.copy(out / "users-000001.parquet", out / "users-000000.parquet")
    with pytest.raises(BatchError, match=r"users-000000\.parquet has the users of another run"):
        score_here(stored.settings, users, out, **options)
    (out / "users-000000.parquet").write_bytes(b"half")
    with pytest.raises(BatchError, match=r"users-000000\.parquet: not the users of a partition .*; remove it to write"):
        score_here(stored.settings, users, out, **options)


@pytest.mark.parametrize(
    ("version", "name", "message"),
    [
        ("2", "user_represention", r"synthetic/2 has no output 'user_represention' of a user.*user_representation"),
        ("2", "item_vector", "'item_vector' of synthetic/2 is a vector per candidate, not of a user"),
        ("1", OUTPUT, "synthetic/1 has no output 'user_representation' of a user"),
    ],
)
def test_a_version_without_the_output_ends_the_run_before_it_writes(
    stored: SimpleNamespace, tmp_path: Path, version: str, name: str, message: str
) -> None:
    registry = tmp_path / "registry"
    shutil.copytree(stored.settings["registry"], registry)
    go_live(registry, version)
    users = write_users(tmp_path / "users.parquet", {"u1": ["1"]})
    with pytest.raises(BatchError, match=message):
        score_here(stored.settings | {"registry": str(registry)}, users, tmp_path / "out", user_outputs=(name,))
    assert list((tmp_path / "out").glob("*.parquet")) == []
