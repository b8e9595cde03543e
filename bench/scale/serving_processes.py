"""The processes whose serving of large tables is measured: publishers, workers, a scorer, and a service that swaps."""

import multiprocessing
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import numpy as np

DIM = 32
CANDIDATES = 200
_ROUNDS = 30
_RUNS = 20
_WORKERS = 3
_SWAPS = 8
_PHASE_S = 8.0  # of rankings without, and with swaps
_PAUSE_S = 0.005
_TOKEN = secrets.token_hex(16)
_SPAWN = multiprocessing.get_context("spawn")


def memory(pid: int | str = "self") -> dict[str, float]:
    """MiB of a process: its own, its share of what is mapped, and what it has copied (anonymous)."""
    sizes: dict[str, float] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, kib, *_ = line.split()
        sizes[name[:-1]] = int(kib) / 1024
    return {
        "private": sizes["Private_Clean"] + sizes["Private_Dirty"],
        "proportional": sizes["Pss"],
        "anonymous": sizes["Anonymous"],
    }


class Peak(threading.Thread):
    """Watches the largest anonymous memory of this process, in MiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mib = 0.0
        self.ended = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()

    def run(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            self.mib = max(self.mib, *(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")))
            if self.ended.wait(0.05):
                break


def source_table(registry: Path, version: str) -> Path:
    """The file from which the table of a version is written into its bundle."""
    return registry / f"table-{version}.bin"


def publish(pipe: Connection, registry: Path, version: str, keys: int) -> None:
    """In a process of its own: publish a bundle; send seconds, peak memory and some keys."""
    from bench.scale.serving_bundle import publish_scale

    with Peak() as peak:
        started = time.perf_counter()
        made = publish_scale(registry, version, keys, DIM)
        seconds = time.perf_counter() - started
    drawn = np.random.default_rng(1).integers(len(made.known), size=min(len(made.known), 1_000_000))
    np.save(registry / "known.npy", made.known[drawn])
    pipe.send({"publish_s": seconds, "publish_peak_mib": peak.mib, "folder": made.folder})


# A worker as the service has them: it prints the seconds and CPU seconds of the load, and ends with its input.
LOAD = """
import sys, time
from pathlib import Path
from service.bundle.hashes import HashRecords
from service.bundle.loading import load_bundle
started = time.perf_counter()
cpu = time.process_time()
bundle = load_bundle(Path(sys.argv[1]), 1, 400, hashes=HashRecords(Path(sys.argv[2])))
print(time.perf_counter() - started, time.process_time() - cpu, flush=True)
sys.stdin.read()
"""


@contextmanager
def child(work: Any, *arguments: Any) -> Iterator[Connection]:
    """A process that runs `work` with a pipe to this one."""
    own_end, child_end = _SPAWN.Pipe()
    process = _SPAWN.Process(target=work, args=(child_end, *arguments))
    process.start()
    child_end.close()
    try:
        yield own_end
    finally:
        own_end.close()
        process.join(60)
        if process.is_alive():
            process.kill()
            process.join()


def loaded(folder: Path, runtime: Path) -> dict[str, Any]:
    """Load the bundle in several processes, one after the other, and measure the last one beside the others."""
    command = [sys.executable, "-c", LOAD, str(folder), str(runtime)]
    workers: list[subprocess.Popen[bytes]] = []
    seconds: list[list[float]] = []
    try:
        for _ in range(_WORKERS):
            workers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            seconds.append([float(number) for number in _line(workers[-1]).split()])
        figures = memory(workers[-1].pid)
    finally:
        for worker in workers:
            worker.communicate()
    load_s, load_cpu_s = min(seconds[1:])
    return {"first_load_s": seconds[0][0], "load_s": load_s, "load_cpu_s": load_cpu_s, "further_worker_mib": figures}


def _line(worker: "subprocess.Popen[bytes]") -> bytes:
    """The next line that a worker prints."""
    assert worker.stdout is not None
    return worker.stdout.readline()


def requests(folder: Path, known: np.ndarray, seed: int) -> list[dict[str, np.ndarray]]:
    """Requests of 200 candidates whose ids are drawn evenly from the known ones: the worst case for caches."""
    from service.bundle.verify import read_manifest

    rng = np.random.default_rng(seed)
    axes = {"C": CANDIDATES, "L": 20}
    topics = known[:50]
    made = []
    for _ in range(_RUNS):
        inputs: dict[str, np.ndarray] = {}
        for spec in read_manifest(folder).inputs:
            shape = [axes[a] if isinstance(a, str) else a for a in spec.shape]
            if spec.dtype == "float32":
                inputs[spec.name] = rng.normal(size=shape).astype(np.float32)
            elif not spec.name.endswith("_keys"):
                inputs[spec.name] = np.full(shape, 1_700_000_000_000)
            else:
                keys = known[rng.integers(len(known), size=shape)]
                # The columns behind the ids have few values: topics, cities, actions, tabs.
                ids = {"user_keys": 1, "item_keys": 2, "behaviour_keys": 2, "context_keys": 0}[spec.name]
                keys[:, ids:] = topics[rng.integers(len(topics), size=keys[:, ids:].shape)]
                inputs[spec.name] = keys
        made.append(inputs)
    return made


def score(pipe: Connection, folders: dict[str, Path]) -> None:
    """In a process of its own: the CPU microseconds of a run, with either bundle in turn."""
    from service.bundle.loading import load_bundle

    bundles = {name: load_bundle(folder, 1, 400) for name, folder in folders.items()}
    known = {name: np.load(folder.parents[1] / "known.npy") for name, folder in folders.items()}
    taken: dict[str, list[float]] = {name: [] for name in folders}
    for turn in range(_ROUNDS):
        for name, bundle in bundles.items():
            drawn = requests(folders[name], known[name], turn)
            started = time.process_time_ns()
            for inputs in drawn:
                bundle.score(inputs)
            taken[name].append((time.process_time_ns() - started) / 1000 / len(drawn))
    pipe.send({name: float(np.quantile(values, 0.25)) for name, values in taken.items()})


def swapped(registry: Path, redis_url: str) -> dict[str, float]:
    """Rank through the service without a pause, first in peace, then while two versions take turns: milliseconds."""
    from bench.measuring.servers import service
    from bench.scale.serving_bundle import HOT_ITEMS
    from loadtest.swaps.cost import SwapCost, answered, timed_rank

    request = {"user_id": "712", "candidates": [str(i) for i in range(CANDIDATES)]}
    same = {"author_id": "1", "topic": "1", "length": 1.0}
    items = [{"item_id": str(i), "features": same | {"item_id": str(i)}} for i in range(HOT_ITEMS)]

    def ranked(ended: threading.Event) -> list[tuple[float, str]]:
        taken = []
        while not ended.wait(_PAUSE_S):
            taken.append(timed_rank(options, request))
        return taken

    with service(registry, redis_url, 1, admin_token=_TOKEN, load_timeout_ms=600_000) as server:
        url = f"http://127.0.0.1:{server.port}"
        options = SwapCost(url, _TOKEN, "scale", ("1", "2"), _SWAPS, 0, CANDIDATES, _PAUSE_S)
        answered(options, "PUT", "/features/items", {"items": items})
        figures: dict[str, float] = {}
        for phase, swaps in (("warm", 0), ("calm", 0), ("swaps", _SWAPS)):
            ended = threading.Event()
            with ThreadPoolExecutor(1) as pool:
                rankings = pool.submit(ranked, ended)
                for number in range(swaps or 1):
                    if swaps:
                        stable = {"name": "scale", "version": options.versions[1 - number % 2]}
                        answered(options, "PUT", "/models/rollout", {"stable": stable, "author": "bench"})
                    time.sleep(_PHASE_S / (swaps or 1))
                ended.set()
                taken = rankings.result()
            figures[f"{phase}_p99_ms"] = float(np.quantile([ms for ms, _version in taken], 0.99))
            figures[f"{phase}_versions"] = len({version for _ms, version in taken})
        return figures
