"""Trains recipes as one of several processes: a program for tests, started with the variables that torchrun sets.

`python tests/kit/training_peer.py FOLDER` trains every case of FOLDER/cases.json, and writes the weights that this
process ends with.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from models.data.cache import open_data
from models.data.shards import Shard
from models.recipe import parse_recipe
from models.training.device import CPU
from models.training.loop import learn
from models.training.members import learn_members
from models.training.processes.exchange import seed_step
from models.training.processes.ranks import joined, ranks_of_environment
from models.training.session import Progress
from models.training.step import NonFiniteLossError
from models.training.updates.row_updates import LazyAdam


class StoppedError(Exception):
    """Ends a training."""


def stop(progress: Progress, share: float) -> None:
    """End a training at its second evaluation, when the first one has written a checkpoint."""
    if len(progress.evaluations) == 2:
        raise StoppedError


@contextmanager
def counting_updates() -> Iterator[list[int]]:
    """Count the rows that lazy Adam updates in each step."""
    counts: list[int] = []
    step = LazyAdam.step

    def counted(rule: LazyAdam, rows: torch.Tensor, *more: Any) -> None:
        counts.append(len(rows))
        step(rule, rows, *more)

    with mock.patch.object(LazyAdam, "step", counted):
        yield counts


@contextmanager
def recorded_seeds() -> Iterator[list[int]]:
    """Record the seed of the random numbers of each step."""
    seeds: list[int] = []

    def recorded(*arguments: Any) -> None:
        seed_step(*arguments)
        seeds.append(torch.initial_seed())

    with mock.patch("models.training.step.seed_step", recorded):
        yield seeds


def train_cases(folder: Path) -> None:
    """Train the cases one after the other.

    `first_shard` is the share of the rows that process 0 reads; `stops`: after the second evaluation.
    """
    ranks = ranks_of_environment()
    torch.set_num_threads(1)
    with joined(ranks, CPU):
        for name, case in json.loads((folder / "cases.json").read_text()).items():
            recipe = parse_recipe(case["recipe"], "the test")
            data = ranks.first_on_host(lambda recipe=recipe: open_data(recipe, folder / "cache"))
            if recipe.training.ensemble > 1:
                with recorded_seeds() as seeds:
                    learn_members(recipe, data, folder / name, quiet=True, ranks=ranks)
                (folder / f"{name}-{ranks.number}.seeds").write_text(json.dumps(seeds))
                continue
            rows = len(data.parts["train"])
            cut = round(case["first_shard"] * rows)
            shard = Shard(0, cut) if ranks.number == 0 else Shard(cut, rows)
            watch = stop if case["stops"] else None
            try:
                with mock.patch.object(Shard, "of", return_value=shard), counting_updates() as counts:
                    trained = learn(recipe, data, folder / name, quiet=True, watch=watch, ranks=ranks)
            except (NonFiniteLossError, StoppedError) as error:
                (folder / f"{name}-{ranks.number}.txt").write_text(str(error))
                continue
            (folder / f"{name}-{ranks.number}.updates").write_text(str(sum(counts)))
            if not ranks.writes:
                torch.save(trained.average.live.state_dict(), folder / f"{name}-{ranks.number}.pt")


if __name__ == "__main__":
    train_cases(Path(sys.argv[1]))
