"""Measures the encoding of logs of three sizes: rows/s and peak memory of each step, and what another day encodes."""

import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.results.targets import Verdict
from bench.scale.parts import PartResult, ScaleError, ScaleSizes, answer_of

FULL = (50_000_000, 100_000_000, 200_000_000)
LEAST_SPEED = 0.8
BASE_GIB = 0.5  # of the program itself, torch included, beside the rows
DAYS = 20
SEED = 1
GIB = 1 << 30
_SPAWN = multiprocessing.get_context("spawn")
_SAMPLE_S = 0.02


@dataclass
class _Steps:
    """Seconds, processor seconds and peak memory of each step. Memory is anonymous, that of all processes together."""

    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    peak: int = 0

    @contextmanager
    def watch(self, name: str) -> Iterator[None]:
        self.peak = 0
        started = time.perf_counter()
        before = _cpu_s()
        yield
        self.figures[name] = {
            "seconds": time.perf_counter() - started,
            "cpu_s": _cpu_s() - before,
            "peak_gib": max(self.peak, _anonymous_bytes()) / GIB,
        }

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Sample memory in a thread meanwhile."""
        done = threading.Event()

        def sample() -> None:
            while not done.wait(_SAMPLE_S):
                self.peak = max(self.peak, _anonymous_bytes())

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _cpu_s() -> float:
    """The processor time of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _anonymous_bytes() -> int:
    """The memory of this process and its children that is no file's, which the system cannot take back."""
    pids = [os.getpid()]
    for children in Path("/proc/self/task").glob("*/children"):
        pids += _ints(children)
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:  # it has ended meanwhile
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
    return total * 1024


def _ints(path: Path) -> list[int]:
    try:
        return [int(text) for text in path.read_text().split()]
    except OSError:  # the thread has ended meanwhile
        return []


def measure(sizes: ScaleSizes) -> PartResult:
    """Write and encode a log of each size in a process of its own, then add a day and encode again.

    Raises ScaleError for a log that the memory or the disk does not allow.
    """
    counts = sizes.behaviours or (FULL if sizes.full else tuple(n // 20 for n in FULL))
    figures = []
    for behaviours in counts:
        with tempfile.TemporaryDirectory(prefix="logs-", dir=sizes.folder) as folder:
            figures.append(_in_process(behaviours, sizes.memory_gib, Path(folder)))
    return PartResult(_lines(figures, sizes), {"sizes": figures}, _verdicts(figures, sizes))


def _in_process(behaviours: int, memory_gib: float, folder: Path) -> dict[str, Any]:
    work = f"encoding {behaviours:,} behaviours"
    pipe, other = _SPAWN.Pipe()
    # Not a daemon, which may have no children.
    process = _SPAWN.Process(target=_send_figures, args=(other, behaviours, memory_gib, folder))
    process.start()
    other.close()
    try:
        with pipe:
            answer: dict[str, Any] | str = answer_of(pipe, work)
    finally:
        process.join()
    if isinstance(answer, str):
        raise ScaleError(f"{work}: {answer}")
    return answer


def _send_figures(pipe: Connection, behaviours: int, memory_gib: float, folder: Path) -> None:
    """Measure in this process, and send the figures, or why there are none."""
    from models.recipe import RecipeError

    with pipe:
        try:
            pipe.send(_measure_size(behaviours, memory_gib, folder))
        except RecipeError as error:
            limits = any(fault.location == ("data", "memory_gib") for fault in error.faults)
            option = f" (here by --memory-gib, which is {memory_gib:g})" if limits else ""
            pipe.send(f"{error}{option}")
        except OSError as error:
            pipe.send(str(error))


def _measure_size(behaviours: int, memory_gib: float, folder: Path) -> dict[str, Any]:
    from bench.scale.log_tables import LogShape, write_day, write_log
    from models.data.partitions import run
    from models.data.partitions.run import FOLDER

    # Files of every size are encoded in processes, whose start is then a part of every measurement.
    run.LEAST_BYTES = 0
    shape = LogShape(behaviours, DAYS)
    started = time.perf_counter()
    write_log(shape, folder / "log", SEED)
    wrote_s = time.perf_counter() - started
    encoded, steps = _encoded(folder, DAYS, memory_gib)
    files = len(list((folder / FOLDER).iterdir()))
    # Another day: the split moves, and the files of the days before are there.
    write_day(shape, folder / "log", SEED, DAYS)
    _, next_steps = _encoded(folder, DAYS + 1, memory_gib)
    # The split by day leaves none of the earlier days out, so that theirs are used again.
    new_files = len(list((folder / FOLDER).iterdir())) - files
    return {
        "behaviours": behaviours,
        "rows": shape.behaviours + shape.impressions,
        "encoded": encoded,
        "write_s": wrote_s,
        "steps": steps,
        "next_day_files": new_files,
        "next_day_steps": next_steps,
    }


def _encoded(folder: Path, days: int, memory_gib: float) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    from bench.scale.log_tables import log_recipe
    from models.data.build import build
    from models.data.tables import tables_of

    recipe = log_recipe(folder / "log", days, memory_gib)
    out = folder / f"encoded-{days}"
    out.mkdir()
    steps = _Steps()
    with steps.sampled():
        described = build(recipe, tables_of(recipe, str(folder / "log")), out, folder, watch=steps.watch)
    counted = {name: described[name] for name in ("impressions", "users", "items", "behaviours", "embedding_rows")}
    size = sum(path.stat().st_size for path in out.iterdir())
    shutil.rmtree(out)
    return counted | {"bytes": size}, steps.figures


def _total(size: dict[str, Any], name: str) -> float:
    return float(sum(step[name] for step in size["steps"].values()))


def _speed(sizes: list[dict[str, Any]]) -> float:
    """Rows per CPU second of what the largest of three sizes has more than the middle one, relative to what that one
    has more than the smallest: 1 if cost is linear, whatever it costs to start.
    """
    rates = [
        (large["rows"] - small["rows"]) / (_total(large, "cpu_s") - _total(small, "cpu_s"))
        for small, large in zip(sizes, sizes[1:], strict=False)
    ]
    return float(rates[-1] / rates[0])


def _peak_gib(size: dict[str, Any]) -> float:
    """The peak of the steps after the files, which are one process."""
    return float(max(step["peak_gib"] for name, step in size["steps"].items() if name != "files"))


def _lines(figures: list[dict[str, Any]], sizes: ScaleSizes) -> list[str]:
    """A table per size: what each step took."""
    lines = []
    for size in figures:
        lines.append(
            f"{size['behaviours']:,} behaviours, {size['rows'] - size['behaviours']:,} impressions, limit "
            f"{sizes.memory_gib:g} GiB: {_total(size, 'seconds'):.0f} s, {_total(size, 'cpu_s'):.0f} CPU s; "
            f"written in {size['write_s']:.0f} s; encoded {size['encoded']['bytes'] / GIB:.2f} GiB, "
            f"{size['encoded']['embedding_rows']:,} embedding rows"
        )
        lines.append(f"  {'step':<12} {'s':>7} {'CPU s':>7} {'rows/s':>11} {'peak GiB':>9} {'next day s':>11}")
        for name, step in size["steps"].items():
            again = size["next_day_steps"][name]["seconds"]
            rate = size["rows"] / max(step["seconds"], 1e-3)
            lines.append(
                f"  {name:<12} {step['seconds']:7.1f} {step['cpu_s']:7.1f} {rate:11,.0f} {step['peak_gib']:9.2f} "
                f"{again:11.1f}"
            )
    return lines


def _verdicts(figures: list[dict[str, Any]], sizes: ScaleSizes) -> list[Verdict]:
    peak = max(map(_peak_gib, figures))
    verdicts = [
        Verdict("logs: peak memory of one process, GiB", peak, sizes.memory_gib + BASE_GIB, at_least=False),
        Verdict("logs: files encoded for another day", max(s["next_day_files"] for s in figures), 2, at_least=False),
    ]
    if len(figures) > 2:
        counts = " to ".join(f"{size['behaviours']:,}" for size in (figures[0], figures[-1]))
        title = f"logs: rows per CPU second of further rows, {counts} behaviours"
        verdicts.append(Verdict(title, _speed(figures), LEAST_SPEED, at_least=True))
    return verdicts
