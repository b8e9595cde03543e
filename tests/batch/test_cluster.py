"""Tests batch scoring on a Ray cluster of two nodes: the same rows as over a pool of processes."""

from pathlib import Path
from typing import Any

import pytest
from batch_runs import filled, rankings, score_by_command, score_here, write_users

from service.sample.embedded_redis import EmbeddedRedis


@pytest.mark.tools
def test_two_nodes_write_the_same_rows(tmp_path: Path, monkeypatch: Any) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=":")
    users = write_users(tmp_path / "users.parquet", {f"u{user}": [str(i) for i in range(50)] for user in range(40)})
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        with EmbeddedRedis() as server:
            settings = filled(tmp_path, server.url)
            files = ["--users", users, "--out", tmp_path / "ray", "--partition-users", 5]
            done = score_by_command(settings, *files, "--ray", cluster.address)
            assert done.returncode == 0, done.stderr
            score_here(settings, users, tmp_path / "here", partition_users=5)
    finally:
        cluster.shutdown()
    assert "40 of 40 users, 2,000 pairs" in done.stdout
    assert rankings(tmp_path / "ray") == rankings(tmp_path / "here")
