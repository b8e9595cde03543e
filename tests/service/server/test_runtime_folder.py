"""Tests faults of the run-time folder with real processes: rankings continue during all of them."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_http
import pytest

from service.sample.embedded_redis import EmbeddedRedis
from service.server.runtime_folder import runtime_folder


def rank(server: Any) -> int:
    """Send one ranking on a new connection, so that any worker may answer; return its status."""
    return fresh_http.post(f"{server.url}/rank", json={"user_id": "7", "candidates": ["1", "2"]}).status_code


def metric(server: Any, name: str) -> float:
    """The sum of the samples that begin with `name`."""
    lines = fresh_http.get(f"{server.url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def pids(server: Any) -> list[int]:
    return [worker["pid"] for worker in fresh_http.get(f"{server.url}/models").json()["workers"]]


def requests_of_rank(server: Any) -> float:
    return metric(server, 'funnelrank_requests_total{outcome="degraded",route="/rank"}')


@dataclass(frozen=True)
class Disk:
    """A place for the run-time folder whose space the test can take away and give back while the service runs."""

    folder: Path
    fill: Callable[[Any], None]
    free: Callable[[Any], None]


@pytest.fixture
def limited_disk(tmp_path: Path) -> Disk:
    """A folder where the service cannot make any file larger: it acts like a full disk, and needs no mount.

    As on a full disk, allocated space can be written, and a new or longer record is an error. The limit of a process
    applies to its later children, so the replacement of a worker has it too.
    """
    folder = tmp_path / "limited"
    folder.mkdir()

    def limit(server: Any, bytes_: int) -> None:
        for pid in (server.process.pid, *children(server.process.pid)):
            hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (bytes_, hard))

    def fill(server: Any) -> None:
        (record, *_) = folder.glob("*/worker-*.json")
        allocated = record.stat().st_size
        limit(server, allocated)
        # The process that starts workers writes no record, so its children may get a limit below the size of a record.
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (allocated - 1, resource.RLIM_INFINITY))

    return Disk(folder, fill, lambda server: limit(server, resource.RLIM_INFINITY))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    filler = folder / "fill"

    def fill(_server: Any) -> None:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    yield Disk(folder, fill, lambda _server: filler.unlink())
    subprocess.run(["umount", "-l", folder], check=True)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            "limited_disk", marks=pytest.mark.skipif(sys.platform != "linux", reason="only Linux has prlimit")
        ),
        pytest.param("small_disk", marks=pytest.mark.tools),
    ],
)
def test_a_full_disk_stops_no_ranking_and_no_metric(
    tmp_path: Path,
    kind: str,
    request: pytest.FixtureRequest,
    registry: Path,
    kit: SimpleNamespace,
    redis_server: EmbeddedRedis,
    store: Any,
) -> None:
    disk: Disk = request.getfixturevalue(kind)
    with kit.serving(tmp_path, registry, redis_server.url, workers=2, runtime_dir=disk.folder) as server:
        before = pids(server)
        disk.fill(server)
        for number in range(20):
            assert rank(server) == 200
            # Every route and outcome makes a metric of its own, which needs more space.
            assert fresh_http.get(f"{server.url}/nowhere/{number}").status_code == 404
            assert fresh_http.post(f"{server.url}/events", json={}).status_code == 422
            assert fresh_http.get(f"{server.url}/fusion").status_code == 200
        assert pids(server) == before
        kit.wait_until(lambda: requests_of_rank(server) == 20)
        # The replacement of a worker has no space for its record.
        os.kill(before[0], signal.SIGKILL)
        kit.wait_until(lambda: server.log_lines.count("is in use") == 3)
        kit.wait_until(lambda: "cannot share its metrics" in server.log_lines)
        for _ in range(20):
            assert rank(server) == 200
        assert server.log_lines.count("cannot share its metrics") == 1
        disk.free(server)
        kit.wait_until(lambda: metric(server, "funnelrank_ready_workers") == 2)
        kit.wait_until(lambda: requests_of_rank(server) == 40)
        assert len(pids(server)) == 2
    assert list(disk.folder.iterdir()) == []


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
        assert fresh_http.get(f"{server.url}/metrics").status_code == 200
        assert fresh_http.get(f"{server.url}/models").status_code == 200
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
