"""Measures training against the number of embedding rows: rows/s, memory, and what a checkpoint costs."""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.results.targets import Verdict
from bench.scale.parts import PartResult, ScaleSizes, answer_of

if TYPE_CHECKING:
    from models.training.processes.ranks import Ranks
    from models.training.step import TrainingState

TURN_STEPS = 10
WARM_STEPS = 10
GIB = 1 << 30
LEAST_SPEED = 0.8
_SPAWN = multiprocessing.get_context("spawn")


class _Trainer(NamedTuple):
    """A process that trains a table of `rows` rows when it is asked to."""

    rows: int
    pipe: Connection


def measure(sizes: ScaleSizes) -> PartResult:
    """Train the same model and batches' sizes over tables of several sizes, in turns of a few steps.

    Each size has a process of its own, so that its peak memory is its own; the processes take turns, so that a busy
    machine slows all of them alike. The fastest turn counts, because other programs only add to the time of a turn.
    """
    # As `funnelrank train` does.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    with ExitStack() as stack:
        trainers = [stack.enter_context(_trainer(rows, sizes)) for rows in sizes.training_rows]
        turns: dict[int, list[dict[str, float]]] = {trainer.rows: [] for trainer in trainers}
        for _ in range(max(1, sizes.steps // TURN_STEPS)):
            for trainer in trainers:
                turns[trainer.rows].append(_ask(trainer, "train"))
        ends = {trainer.rows: _ask(trainer, "end") for trainer in trainers}
    figures = {rows: _figures(turns[rows], ends[rows], sizes) for rows in turns}
    return PartResult(_lines(figures, sizes), {"sizes": list(figures.values())}, _verdicts(figures, sizes))


@contextmanager
def _trainer(rows: int, sizes: ScaleSizes) -> Iterator[_Trainer]:
    own_end, other = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_train_when_asked, args=(other, rows, sizes), daemon=True)
    process.start()
    other.close()
    try:
        with own_end:
            yield _Trainer(rows, own_end)
    finally:
        process.join(10)
        process.kill()
        process.join()
        process.close()


def _ask(trainer: _Trainer, task: str) -> dict[str, float]:
    trainer.pipe.send(task)
    answer: dict[str, float] = answer_of(trainer.pipe, f"training a table of {trainer.rows:,} rows")
    return answer


def _figures(turns: Sequence[dict[str, float]], end: dict[str, float], sizes: ScaleSizes) -> dict[str, Any]:
    trained = TURN_STEPS * sizes.batch_size
    return end | {
        "rows_per_s": trained / min(turn["wall_s"] for turn in turns),
        "rows_per_cpu_s": trained / min(turn["cpu_s"] for turn in turns),
    }


def _lines(figures: dict[int, dict[str, Any]], sizes: ScaleSizes) -> list[str]:
    head = f"{'rows':>12} {'rows/s':>10} {'rows/CPU s':>11} {'touched/step':>13} {'table':>9} {'peak':>9}"
    setting = f"{sizes.updates}, dim {sizes.dim}, batches of {sizes.batch_size} with 20 behaviours, one thread, "
    setting += f"the fastest of turns of {TURN_STEPS} steps; the average over steps is on"
    lines = [setting, f"{head} {'checkpoint':>11} {'written in':>11} {'whole average':>14}"]
    for rows, of in figures.items():
        lines.append(
            f"{rows:>12,} {of['rows_per_s']:>10,.0f} {of['rows_per_cpu_s']:>11,.0f} {of['touched']:>13,.0f} "
            f"{of['table_bytes'] / GIB:>5.2f} GiB {of['peak_bytes'] / GIB:>5.2f} GiB "
            f"{of['checkpoint_bytes'] / GIB:>7.2f} GiB {of['checkpoint_s']:>9.1f} s {of['average_s']:>12.2f} s"
        )
    return lines


def _verdicts(figures: dict[int, dict[str, Any]], sizes: ScaleSizes) -> list[Verdict]:
    few = min(figures)
    many = max(figures)
    of_many = figures[many]
    ratio = of_many["rows_per_cpu_s"] / figures[few]["rows_per_cpu_s"]
    states = 1 / sizes.dim if sizes.updates == "rowwise_adagrad" else 2  # numbers per weight
    allowed = of_many["table_bytes"] * (2 + states) + GIB
    return [
        Verdict(f"training: rows/s at {many:,} rows / at {few:,} rows (CPU time)", ratio, LEAST_SPEED, at_least=True),
        Verdict(
            f"training: peak GiB at {many:,} rows; bound: table x (2 + optimiser's states) + 1",
            of_many["peak_bytes"] / GIB,
            round(allowed / GIB, 2),
            at_least=False,
        ),
    ]


def training_state(rows: int, sizes: ScaleSizes, ranks: "Ranks | None" = None) -> "TrainingState":
    """The state of a run over a table of `rows` rows before its first step, as the training loop has it."""
    import torch

    from bench.scale.synthetic import scale_data, scale_recipe
    from models.network.build import build_model
    from models.training.processes.ranks import ALONE
    from models.training.session import Progress
    from models.training.step import TrainingState
    from models.training.updates.averaging import Average
    from models.training.updates.optimisation import Optimiser
    from models.training.updates.own_rows import OwnRows
    from models.training.weighting import build_weighting

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(1)
    ranks = ranks or ALONE
    recipe = scale_recipe(sizes.dim, sizes.updates, sizes.batch_size)
    steps = sizes.steps + TURN_STEPS + WARM_STEPS
    data = scale_data(recipe, rows, steps * sizes.batch_size, seed=1)
    model = build_model(recipe, data.encoding)
    own = OwnRows(ranks.number, ranks.count)
    average = Average(model, recipe.training.averaging, sizes.updates != "dense", own, ranks.whole)
    optimiser = Optimiser(model, recipe.training, steps, own)
    weighting = build_weighting(model, recipe.training)
    model.train()
    seed = recipe.training.seed
    return TrainingState(data, Path(), {}, model, average, optimiser, weighting, Progress(), ranks, seed=seed)


def _train_when_asked(pipe: Connection, rows: int, sizes: ScaleSizes) -> None:
    """Answer each "train" with the time of `TURN_STEPS` steps, and "end" with the other figures."""
    from models.data.batches import shuffled_batches
    from models.training.session import save_session
    from models.training.step import train_step

    state = training_state(rows, sizes)
    average = state.average
    optimiser = state.optimiser
    batches = shuffled_batches(state.data, "train", sizes.batch_size, 1, 0)
    touched = 0

    def train(number: int) -> dict[str, float]:
        nonlocal touched
        wall = time.perf_counter()
        cpu = time.process_time()
        for batch in islice(batches, number):
            train_step(state, batch, 0)
            state.progress.step += 1
        spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        touched = sum(len(of_table) for of_table in optimiser.touched_rows() if of_table is not None)
        return spent

    train(WARM_STEPS)
    while pipe.recv() == "train":
        pipe.send(train(TURN_STEPS))
    # What an evaluation and a checkpoint add.
    clock = time.perf_counter()
    average.synchronised()
    average_s = time.perf_counter() - clock
    with tempfile.TemporaryDirectory(prefix="funnelrank-scale-") as folder:
        clock = time.perf_counter()
        save_session(Path(folder), {}, state.progress, state.model, average, optimiser, state.weighting)
        checkpoint_s = time.perf_counter() - clock
        checkpoint_bytes = sum(file.stat().st_size for file in Path(folder).iterdir())
    pipe.send(
        {
            "rows": rows,
            "touched": touched,
            "table_bytes": sum(table.weight.nbytes for table in state.model.inputs.tables),
            "peak_bytes": _peak_bytes(),
            "average_s": average_s,
            "checkpoint_bytes": checkpoint_bytes,
            "checkpoint_s": checkpoint_s,
        }
    )
    pipe.close()


def _peak_bytes() -> int:
    """The most memory that this process has had, in bytes."""
    # `ru_maxrss` would begin with the size of the process that started this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")
