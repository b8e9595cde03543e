"""Tests batch scoring on a Ray cluster of two nodes: the answers of a live service, bit for bit, also after a kill."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_runs import LISTS, ROOT, assert_as_served, command_of, filled, rankings, score_by_command, write_users

from service.sample.embedded_redis import EmbeddedRedis

pytestmark = pytest.mark.tools
STARTED = 120.0


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running cluster of two nodes with a core each, whose workers import this tree."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        try:
            cluster.add_node(num_cpus=1)
            yield cluster.address
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with EmbeddedRedis() as server:
        yield filled(tmp_path_factory.mktemp("registry"), server.url)


@pytest.mark.parametrize("choice", [{}, {"profile": "default", "rules": "strict"}])
def test_two_nodes_give_the_answers_of_a_live_service(
    address: str, settings: dict[str, str], tmp_path: Path, choice: dict[str, str]
) -> None:
    # A folder of two files, so that partitions cross the end of one.
    names = list(LISTS)
    (tmp_path / "users").mkdir()
    for part, users in enumerate((names[:8], names[8:])):
        write_users(tmp_path / "users" / f"{part}.parquet", {name: LISTS[name] for name in users})
    words = [word for name, value in choice.items() for word in (f"--{name}", value)]
    files = ["--users", tmp_path / "users", "--out", tmp_path / "out", "--partition-users", 3]
    done = score_by_command(settings, *files, *words, "--ray", address)
    assert done.returncode == 0, done.stderr
    assert "20 of 20 users, 2,731 pairs" in done.stdout
    assert len(list((tmp_path / "out").glob("part-*.parquet"))) == 7
    route = "/rank/preview" if choice else "/rank"
    assert assert_as_served(tmp_path / "out", settings, route, **choice) > 2690


def test_a_killed_run_continues_on_the_cluster(address: str, settings: dict[str, str], tmp_path: Path) -> None:
    lists = {f"u{user}": [str(i) for i in range(1000)] for user in range(600)}
    users = write_users(tmp_path / "users.parquet", lists)
    files = ["--users", users, "--out", tmp_path / "out", "--partition-users", 5, "--top-k", 3, "--ray", address]
    command, environment = command_of(settings, *files)
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    end = time.monotonic() + STARTED
    while len(list((tmp_path / "out").glob("part-*.parquet"))) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 2 <= len(list((tmp_path / "out").glob("part-*.parquet"))) < 120
    done = score_by_command(settings, *files)
    assert done.returncode == 0, done.stderr
    assert "600 of 600 users, 600,000 pairs" in done.stdout
    ranked = rankings(tmp_path / "out")
    assert list(ranked) == list(lists)
    assert {len(rows) for rows in ranked.values()} == {3}


def test_a_wrong_row_on_a_node_ends_the_run_with_its_place(
    address: str, settings: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "users.csv").write_text("user_id,candidates\nu1,1|2\n,3\n")
    done = score_by_command(settings, "--users", tmp_path / "users.csv", "--out", tmp_path / "out", "--ray", address)
    assert done.returncode == 1
    assert "users.csv (users): column 'user_id' has a missing id (row 2)" in done.stderr
