"""The sizes of the scale benchmark, and what each of its parts gives back."""

from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from bench.results.targets import Verdict

FULL_MEMORY_GIB = 1.0  # for logs of the stated sizes: the index of 4.9 million users is beyond a quarter of 0.5 GiB


class ScaleError(Exception):
    """A part that cannot be measured as given; the message says what to set."""


@dataclass(frozen=True)
class ScaleSizes:
    """What the command line sets: `training_rows` and `dim` of the tables to train, and how their rows are updated.
    `processes`: how many train one run together.

    `serving_keys`: of the bundle that is served; its files lie in `folder` (None: with the temporary files). `full`: a
    part whose default is smaller measures the stated sizes. `behaviours`: of the logs to encode (empty: the default
    sizes), within `memory_gib`. `redis_users`, `redis_items`: of the rows in a Redis Cluster, of which `redis_slots`
    slots move.
    """

    training_rows: tuple[int, ...] = (10_000, 10_000_000)
    dim: int = 16
    updates: str = "lazy_adam"
    steps: int = 240
    batch_size: int = 1024
    processes: int = 2
    full: bool = False
    serving_keys: int = 2_000_000
    folder: str | None = None
    behaviours: tuple[int, ...] = ()
    memory_gib: float = 0.5
    redis_users: int = 20_000
    redis_items: int = 10_000
    redis_slots: int = 60


@dataclass(frozen=True)
class PartResult:
    """The figures of one part: lines for the terminal, plain data for the JSON file, and the verdicts."""

    lines: list[str]
    figures: dict[str, Any]
    verdicts: list[Verdict] = field(default_factory=list)


def answer_of(pipe: Connection, work: str) -> Any:
    """What a process that measures sends. Raises ScaleError if it has ended; `work` begins the message."""
    try:
        return pipe.recv()
    except (EOFError, ConnectionResetError):
        cause = "its message is above, or the system ended it for want of memory"
        raise ScaleError(f"{work}: the process ended without an answer; {cause}") from None
