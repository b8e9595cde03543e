"""Measures how much faster several processes train one run than one does, with the same batches."""

import multiprocessing
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any

from bench.results.targets import Verdict
from bench.scale.parts import PartResult, ScaleSizes, answer_of
from bench.scale.training import TURN_STEPS, WARM_STEPS, training_state

ROWS = 1_000_000
# Of each further process, the share that may not be lost to messages and to waiting for the slowest.
LEAST_OF_EACH = 0.6
_SPAWN = multiprocessing.get_context("spawn")


def measure(sizes: ScaleSizes) -> PartResult:
    """Train the same batches in one process and in several, in turns; the fastest turn of each counts.

    Each process computes with one thread, so that a speed-up of the number of processes is the most there can be. The
    processes of a group wait for each other, so that a core that another program uses delays all of them.
    """
    counts = (1, sizes.processes)
    with ExitStack() as stack:
        groups = {count: stack.enter_context(_group(count, sizes)) for count in counts}
        turns: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
        for _ in range(max(1, sizes.steps // TURN_STEPS)):
            for count, pipes in groups.items():
                turns[count].append(_turn(pipes))
        for pipes in groups.values():
            for pipe in pipes:
                pipe.send("end")
    figures = [_figures(count, turns[count], sizes) for count in counts]
    speed_up = figures[1]["rows_per_s"] / figures[0]["rows_per_s"]
    bound = 1 + LEAST_OF_EACH * (sizes.processes - 1)
    # On a busy machine the clock says little: this is what the processes would reach if they never waited.
    unhindered = sizes.processes * figures[1]["rows_per_cpu_s"] / figures[0]["rows_per_cpu_s"]
    lines = [*_lines(figures, sizes), f"by CPU time, with a core for each process: at most {unhindered:.2f} times"]
    title = f"processes: rows/s with {sizes.processes} processes / with 1, one thread each"
    return PartResult(
        lines, {"counts": figures, "unhindered": unhindered}, [Verdict(title, speed_up, bound, at_least=True)]
    )


@contextmanager
def _group(count: int, sizes: ScaleSizes) -> Iterator[list[Connection]]:
    """Start the processes of a group; each trains a turn when it is asked to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    pipes = []
    for number in range(count):
        own_end, other = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_train_when_asked, args=(other, number, count, port, sizes), daemon=True)
        process.start()
        other.close()
        started.append(process)
        pipes.append(own_end)
    try:
        yield pipes
    finally:
        for pipe in pipes:
            pipe.close()
        for process in started:
            process.join(10)
            process.kill()
            process.join()
            process.close()


def _turn(pipes: Sequence[Connection]) -> dict[str, float]:
    """Train one turn in all processes of a group: the time of the slowest, the CPU time of all."""
    for pipe in pipes:
        pipe.send("train")
    work = f"training in {len(pipes)} processes"
    answers: list[dict[str, float]] = [answer_of(pipe, work) for pipe in pipes]
    return {
        "wall_s": max(answer["wall_s"] for answer in answers),
        "cpu_s": sum(answer["cpu_s"] for answer in answers),
    }


def _figures(count: int, turns: Sequence[dict[str, float]], sizes: ScaleSizes) -> dict[str, Any]:
    trained = TURN_STEPS * sizes.batch_size
    return {
        "processes": count,
        "rows_per_s": trained / min(turn["wall_s"] for turn in turns),
        "rows_per_cpu_s": trained / min(turn["cpu_s"] for turn in turns),
    }


def _lines(figures: Sequence[dict[str, Any]], sizes: ScaleSizes) -> list[str]:
    setting = f"{sizes.updates}, {ROWS:,} rows of width {sizes.dim}, batches of {sizes.batch_size} for all processes "
    lines = [f"{setting}together, one thread each, the fastest of turns of {TURN_STEPS} steps"]
    lines.append(f"{'processes':>10} {'rows/s':>10} {'rows/CPU s':>11}")
    lines += [f"{of['processes']:>10} {of['rows_per_s']:>10,.0f} {of['rows_per_cpu_s']:>11,.0f}" for of in figures]
    return lines


def _train_when_asked(pipe: Connection, number: int, count: int, port: int, sizes: ScaleSizes) -> None:
    """Answer each "train" with the times of `TURN_STEPS` steps of process `number` of `count`."""
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(count), "LOCAL_RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}

    from models.data.batches import shuffled_batches
    from models.data.shards import Shard
    from models.training.device import CPU
    from models.training.processes.ranks import Ranks, joined
    from models.training.step import train_step

    ranks = Ranks(number, count, number)
    state = training_state(ROWS, sizes, ranks)
    shard = Shard.of(len(state.data.parts["train"]), number, count)
    batches = shuffled_batches(state.data, "train", sizes.batch_size, 1, 0, shard=shard)

    def train(steps: int) -> dict[str, float]:
        wall = time.perf_counter()
        cpu = time.process_time()
        for batch in islice(batches, steps):
            train_step(state, batch, 0)
            state.progress.step += 1
        return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}

    with pipe, joined(ranks, CPU):
        train(WARM_STEPS)
        while pipe.recv() == "train":
            pipe.send(train(TURN_STEPS))
