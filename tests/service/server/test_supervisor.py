"""Tests the supervisor with real processes: ended workers, restarts, and the requests that they lose."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_http
import httpx
import pytest

from service.metrics.families import page_of
from service.metrics.workers import WorkerRecords
from service.sample.embedded_redis import EmbeddedRedis
from service.server.serve import with_current_profiles
from service.server.start import WorkerStart
from service.settings import Settings

ROOT = Path(__file__).parents[3]
# The supervisor with shorter times than in operation: between failed starts, and until a silent worker is replaced.
SHORT_PAUSES = "from service.server import supervisor; supervisor._FIRST_PAUSE_SECONDS = 0.1"
# And one that says when a heartbeat has told it that a worker serves.
NOTED = """
from service.server.process import WorkerProcess
take_heartbeats = WorkerProcess.take_heartbeats
def noting(worker, now):
    knew = worker.serving
    take_heartbeats(worker, now)
    if worker.serving and not knew:
        print("the supervisor knows that it serves", flush=True)
WorkerProcess.take_heartbeats = noting
"""
SHORT_SILENCE = "from service.server import process; process._SILENT_SECONDS = 6.0"
FUSION = "revision: {revision}\nprofiles:\n  default: {{kind: weighted_sum, weights: {{pctr: 1.0}}}}\n"


def rank(server: Any) -> dict[str, Any]:
    """The answer to one ranking on a new connection."""
    answer = fresh_http.post(f"{server.url}/rank", json={"user_id": "7", "candidates": ["1", "2"]})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def metric(server: Any, name: str) -> float | None:
    return value_in(fresh_http.get(f"{server.url}/metrics").text, name)


def recorded(folder: Path, name: str) -> float | None:
    """A metric of all workers as their records in the run-time folder have it."""
    page = page_of(WorkerRecords(folder).families({})).decode()
    return value_in(page, name)


def value_in(page: str, name: str) -> float | None:
    lines = page.splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} ")), None)


def workers_of(server: Any) -> list[int]:
    """The worker processes of a service, as the kernel lists them."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (entry / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if parent == server.process.pid and b"spawn_main" in command:
            pids.append(int(entry.name))
    return sorted(pids)


@contextmanager
def callers(server: Any, count: int = 2) -> Iterator[list[str]]:
    """Callers that send rankings without a pause, each on new connections; yields the faults that they see."""
    faults: list[str] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            try:
                rank(server)
                time.sleep(0.02)
            except (httpx.TransportError, AssertionError) as error:
                faults.append(repr(error))

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield faults
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_broken_fusion_file_matters_to_no_worker_and_a_restart_loses_no_request(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any
) -> None:
    fusion = tmp_path / "fusion.yaml"
    fusion.write_text(FUSION.format(revision=3))
    unreadable = 'funnelrank_document_unreadable{document="fusion_file"}'
    with kit.serving(tmp_path, registry, redis_server.url, workers=2, fusion_file=fusion) as server:
        before = workers_of(server)
        fusion.write_text(FUSION.format(revision=4).replace("}}", "}"))
        os.kill(before[0], signal.SIGKILL)
        kit.wait_until(lambda: server.log_lines.count("is in use") == 3)
        kit.wait_until(lambda: metric(server, "funnelrank_ready_workers") == 2)
        assert {rank(server)["fusion"]["revision"] for _ in range(20)} == {3}
        assert metric(server, unreadable) == 1
        with callers(server) as faults:
            fusion.write_text(FUSION.format(revision=5))
            server.process.send_signal(signal.SIGHUP)
            kit.wait_until(lambda: server.log_lines.count("is in use") == 5)
            kit.wait_until(lambda: {rank(server)["fusion"]["revision"] for _ in range(20)} == {5})
        assert faults == []
        kit.wait_until(lambda: metric(server, unreadable) in (0, None))
        assert "Traceback" not in server.log_lines


def test_a_restart_with_a_broken_fusion_file_keeps_the_last_good_profiles(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fusion = tmp_path / "fusion.yaml"
    fusion.write_text(FUSION.format(revision=3))
    good = with_current_profiles(WorkerStart(Settings(fusion_file=fusion)))
    assert good.profiles is not None
    assert good.profiles.revision == 3
    fusion.write_text("profiles: [")
    assert with_current_profiles(good) is good
    fusion.unlink()
    assert with_current_profiles(good) is good
    assert caplog.text.count("the last good profiles stay in use") == 2


def test_a_worker_that_cannot_start_leaves_the_others_alone_and_is_tried_ever_more_rarely(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any
) -> None:
    for package in ("features", "funnelrank", "service", "tables"):
        shutil.copytree(ROOT / package, tmp_path / package)
    code = tmp_path / "service" / "server" / "app.py"
    with kit.serving(
        tmp_path, registry, redis_server.url, workers=2, root=tmp_path, setup=SHORT_PAUSES + NOTED
    ) as server:
        before = workers_of(server)
        # A file of the code is missing, as during an update.
        code.rename(code.with_suffix(".moved"))
        # Workers that the supervisor knows to serve get a successor without a pause.
        kit.wait_until(lambda: server.log_lines.count("the supervisor knows that it serves") == 2)
        os.kill(before[0], signal.SIGKILL)
        kit.wait_until(lambda: server.log_lines.count("the next start is in") == 4)
        pauses = [
            float(line.split("next start is in ")[1].split()[0])
            for line in server.log_lines.splitlines()
            if "the next start is in" in line
        ]
        assert pauses == [0.0, 0.2, 0.4, 0.8]
        assert metric(server, "funnelrank_workers") == 1
        assert metric(server, "funnelrank_ready_workers") == 1
        for _ in range(20):
            rank(server)
        assert server.process.poll() is None
        code.with_suffix(".moved").rename(code)
        kit.wait_until(lambda: metric(server, "funnelrank_ready_workers") == 2)
        # The supervisor is killed: its workers end, so that the port is free for the next start.
        workers = workers_of(server)
        server.process.kill()
        server.process.wait()
        kit.wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_one_worker_ignores_sighup_and_a_second_start_on_its_port_is_told_why(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any
) -> None:
    with kit.serving(tmp_path, registry, redis_server.url) as server:
        with callers(server) as faults:
            for count in range(1, 4):
                server.process.send_signal(signal.SIGHUP)
                kit.wait_until(lambda: server.log_lines.count("SIGHUP is ignored") == count)  # noqa: B023
        assert faults == []
        environment = {"PATH": os.environ["PATH"], "FUNNELRANK_REGISTRY": str(registry)}
        environment |= {"FUNNELRANK_PORT": server.url.rsplit(":", 1)[1]}
        for workers in ("1", "2"):
            second = subprocess.run(
                [sys.executable, "-m", "service", "serve"],
                cwd=ROOT,
                env=environment | {"FUNNELRANK_WORKERS": workers},
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert second.returncode == 1
            assert "FUNNELRANK_PORT" in second.stderr
            assert "Address already in use" in second.stderr
            assert "Traceback" not in second.stderr
        rank(server)


def test_a_service_of_which_no_worker_can_start_ends_with_a_code_other_than_0(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any
) -> None:
    with kit.serving(tmp_path, registry, redis_server.url, wait_for=None, workers=2, setup=SHORT_PAUSES) as server:
        until = time.monotonic() + 60
        while server.process.poll() is None and time.monotonic() < until:
            for pid in workers_of(server):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        assert server.process.returncode == 1
        assert "no worker could be started in 3 attempts" in server.log_lines


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any
) -> None:
    with kit.serving(tmp_path, registry, redis_server.url, workers=2, setup=SHORT_SILENCE) as server:
        hung = workers_of(server)[0]
        os.kill(hung, signal.SIGSTOP)
        kit.wait_until(lambda: hung not in workers_of(server))
        assert "sends no heartbeat" in server.log_lines
        kit.wait_until(lambda: server.log_lines.count("is in use") == 3)
        kit.wait_until(lambda: metric(server, "funnelrank_ready_workers") == 2)


@pytest.mark.slow
def test_workers_that_were_stopped_with_their_supervisor_are_not_killed(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any
) -> None:
    """As when a container is paused; the supervisor continues first."""
    with kit.serving(tmp_path, registry, redis_server.url, workers=2, setup=SHORT_SILENCE + NOTED) as server:
        workers = workers_of(server)
        kit.wait_until(lambda: server.log_lines.count("the supervisor knows that it serves") == 2)
        for pid in (server.process.pid, *workers):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(8.0)  # longer than a worker may be silent
        os.kill(server.process.pid, signal.SIGCONT)
        time.sleep(1.0)  # in which the supervisor must kill nobody
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        rank(server)
        time.sleep(1.0)
        assert workers_of(server) == workers
        assert "sends no heartbeat" not in server.log_lines


@pytest.mark.slow
def test_workers_that_are_killed_again_and_again_come_back_and_no_count_is_lost(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any
) -> None:
    name = 'funnelrank_requests_total{outcome="degraded",route="/rank"}'
    parent = tmp_path / "runtime"
    with kit.serving(tmp_path, registry, redis_server.url, workers=2, runtime_dir=parent) as server:
        (folder,) = parent.iterdir()
        for round_number in range(1, 5):
            for _ in range(10):
                rank(server)
            # A killed worker counts with its last record.
            kit.wait_until(lambda: recorded(folder, name) == 10 * round_number)  # noqa: B023
            assert metric(server, name) == 10 * round_number
            for pid in workers_of(server)[round_number % 2 :][:1]:
                os.kill(pid, signal.SIGKILL)
            kit.wait_until(lambda: metric(server, "funnelrank_ready_workers") == 2)
            assert metric(server, name) == 10 * round_number
