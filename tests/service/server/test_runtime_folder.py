"""Tests faults of the run-time folder with real processes: whatever happens to it, rankings go on."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from service.sample.embedded_redis import EmbeddedRedis
from service.server.runtime_folder import runtime_folder


def rank(server: Any) -> int:
    """One ranking on a connection of its own, so that any worker may answer; its status."""
    return httpx.post(f"{server.url}/rank", json={"user_id": "7", "candidates": ["1", "2"]}, timeout=10).status_code


def metric(server: Any, name: str) -> float:
    """The sum of the samples that begin with `name`."""
    lines = httpx.get(f"{server.url}/metrics", timeout=10).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def pids(server: Any) -> list[int]:
    return [worker["pid"] for worker in httpx.get(f"{server.url}/models", timeout=10).json()["workers"]]


def requests_of_rank(server: Any) -> float:
    return metric(server, 'funnelrank_requests_total{outcome="degraded",route="/rank"}')


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a tmpfs; a limit of the file size is not a full disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all space of its file system."""
    path = folder / "fill"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


def test_a_full_disk_stops_no_ranking_and_no_metric(
    tmp_path: Path,
    small_disk: Path,
    registry: Path,
    kit: SimpleNamespace,
    redis_server: EmbeddedRedis,
    store: Any,
) -> None:
    with kit.serving(tmp_path, registry, redis_server.url, workers=2, runtime_dir=small_disk) as server:
        before = pids(server)
        filler = fill(small_disk)
        for number in range(20):
            assert rank(server) == 200
            # Every route and outcome makes a metric of its own, which would need space of its own.
            assert httpx.get(f"{server.url}/nowhere/{number}").status_code == 404
            assert httpx.post(f"{server.url}/events", json={}).status_code == 422
            assert httpx.get(f"{server.url}/fusion").status_code == 200
        assert pids(server) == before
        kit.wait_until(lambda: requests_of_rank(server) == 20)
        # The replacement of a worker finds no space for a record of its own.
        os.kill(before[0], signal.SIGKILL)
        kit.wait_until(lambda: server.log_lines.count("is in use") == 3)
        kit.wait_until(lambda: "cannot share its metrics" in server.log_lines)
        for _ in range(20):
            assert rank(server) == 200
        assert server.log_lines.count("cannot share its metrics") == 1
        filler.unlink()
        kit.wait_until(lambda: metric(server, "funnelrank_ready_workers") == 2)
        kit.wait_until(lambda: requests_of_rank(server) == 40)
        assert len(pids(server)) == 2
    assert list(small_disk.iterdir()) == []


def test_a_removed_folder_is_created_again_and_a_killed_worker_is_replaced_once(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any
) -> None:
    parent = tmp_path / "runtime"
    with kit.serving(tmp_path, registry, redis_server.url, workers=2, runtime_dir=parent) as server:
        (folder,) = parent.iterdir()
        before = pids(server)
        for _ in range(10):
            assert rank(server) == 200
        subprocess.run(["rm", "-rf", str(folder)], check=True)
        assert httpx.get(f"{server.url}/metrics").status_code == 200
        assert httpx.get(f"{server.url}/models").status_code == 200
        kit.wait_until(lambda: requests_of_rank(server) == 10)
        kit.wait_until(lambda: pids(server) == before)
        subprocess.run(["rm", "-rf", str(folder)], check=True)
        os.kill(before[0], signal.SIGKILL)
        kit.wait_until(lambda: server.log_lines.count("is in use") == 3)
        kit.wait_until(lambda: metric(server, "funnelrank_ready_workers") == 2)
        assert "Traceback" not in server.log_lines
    assert list(parent.iterdir()) == []


def test_a_start_removes_what_a_killed_one_left_and_nothing_of_one_that_lives(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any
) -> None:
    parent = tmp_path / "runtime"
    with kit.serving(tmp_path, registry, redis_server.url, workers=2, runtime_dir=parent) as first:
        (folder,) = parent.iterdir()
        with kit.serving(tmp_path, registry, redis_server.url, workers=2, runtime_dir=parent) as second:
            assert len(list(parent.iterdir())) == 2
            rank(second)
            assert not set(pids(first)) & set(pids(second))
            assert requests_of_rank(first) == 0
        assert list(parent.iterdir()) == [folder]
        for pid in (first.process.pid, *pids(first)):
            os.kill(pid, signal.SIGKILL)
    assert list(parent.iterdir()) == [folder]
    with kit.serving(tmp_path, registry, redis_server.url, workers=2, runtime_dir=parent):
        (new,) = parent.iterdir()
        assert new != folder


def test_without_any_folder_every_worker_has_metrics_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with runtime_folder([tmp_path / "file" / "a", tmp_path / "file" / "b"]) as folder:
        assert folder is None
    assert len(caplog.records) == 1
    with runtime_folder([tmp_path / "file" / "a", tmp_path / "b"]) as folder:
        assert folder is not None
        assert folder.parent == tmp_path / "b"
        assert folder.stat().st_mode & 0o077 == 0
    assert list((tmp_path / "b").iterdir()) == []
