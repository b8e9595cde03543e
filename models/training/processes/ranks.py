"""The processes that train one run together: how they meet, and what they send to each other."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from features.parent_process import end_with_parent
from models.recipe import Recipe, RecipeError
from models.training.device import chosen_device
from models.training.processes.meeting import is_prepared, store_of_start

# While the first process encodes tables or evaluates, the others wait. A process that ends is noticed at once.
LONGEST_WAIT = timedelta(hours=12)
# A process that lost another one ends a little later, so that the one that failed is seen first.
LAST_TO_END_S = 2.0

Value = TypeVar("Value")


class ProcessesError(RuntimeError):
    """Processes that cannot train together; the message says why."""


class LostProcessError(RuntimeError):
    """Another process of the run has ended; the run can be continued from its last checkpoint."""


@dataclass(frozen=True)
class Ranks:
    """One of `count` processes that train a run. Number 0 evaluates, and writes all files."""

    number: int = 0
    count: int = 1
    # The number among the processes of this machine.
    local_number: int = 0

    @property
    def writes(self) -> bool:
        """Whether this process evaluates and writes the files of the run."""
        return self.number == 0

    def add(self, tensor: Tensor) -> None:
        """Replace the tensor by its sum over all processes, with the same bits in each of them."""
        with _noticing_lost():
            dist.all_reduce(tensor)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, in the order of their numbers; they have one shape."""
        everyone = [torch.empty_like(tensor) for _ in range(self.count)]
        with _noticing_lost():
            dist.all_gather(everyone, tensor)
        return everyone

    def exchange(self, messages: Sequence[Tensor], sizes: Sequence[int]) -> Sequence[Tensor]:
        """Send a message `[n]` to each process, itself included; return those that this one gets, of these `sizes`."""
        received = torch.empty(sum(sizes), dtype=messages[0].dtype, device=messages[0].device)
        with _noticing_lost():
            dist.all_to_all_single(received, torch.cat(list(messages)), list(sizes), [len(m) for m in messages])
        return received.split(list(sizes))

    def whole(self, part: Tensor, rows: int) -> Tensor:
        """A tensor `[rows, ...]` of which each process has its own rows (`OwnRows`): in the first process all of them,
        in the others the part itself.
        """
        if self.count == 1:
            return part
        if not self.writes:
            if len(part):
                with _noticing_lost():
                    dist.send(part.contiguous(), 0)
            return part
        every = part.new_empty(rows, *part.shape[1:])
        every[:: self.count] = part
        for number in range(1, min(self.count, rows)):
            theirs = torch.empty_like(every[number :: self.count], memory_format=torch.contiguous_format)
            with _noticing_lost():
                dist.recv(theirs, number)
            every[number :: self.count] = theirs
        return every

    def from_first(self, value: Value) -> Value:
        """The value that the first process has."""
        if self.count == 1:
            return value
        values = [value]
        with _noticing_lost():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def wait_for_first(self) -> None:
        """Wait until the first process comes here too, and then let it end before this one."""
        self.from_first(None)
        if not self.writes:
            time.sleep(LAST_TO_END_S)

    def agree(self, name: str, value: object) -> None:
        """Raise ProcessesError if the processes have different values of `name`."""
        if self.count == 1:
            return
        values: list[Any] = [None] * self.count
        with _noticing_lost():
            dist.all_gather_object(values, value)
        for number, other in enumerate(values):
            if other != values[0]:
                raise ProcessesError(
                    f"process {number} has another {name} than process 0; give every host the same recipe, data, "
                    "threads and --out, on a file system that all hosts share"
                )

    def first_on_host(self, work: Callable[[], Value]) -> Value:
        """Do the work in one process of each machine, then in its others, which take over files that it has written."""
        if self.count > 1 and self.local_number:
            self._wait()
        done = work()
        if self.count > 1 and not self.local_number:
            self._wait()
        return done

    def _wait(self) -> None:
        self.add(torch.zeros(1))


ALONE = Ranks()


def started_by_torchrun() -> bool:
    """Whether torchrun, or another launcher that sets its variables, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def continues_launch() -> bool:
    """Whether torchrun started this process again after the same launch had begun the run. Raises ProcessesError."""
    try:
        return is_prepared()
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise ProcessesError(_why_not_met(error)) from error


def ranks_of_environment() -> Ranks:
    """This process among those that torchrun started; `ALONE` if torchrun did not start it. Raises ProcessesError."""
    if not started_by_torchrun():
        return ALONE
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(signal.SIGTERM)
    return Ranks(_variable("RANK"), _variable("WORLD_SIZE"), _variable("LOCAL_RANK"))


def device_of_process(name: str, ranks: Ranks) -> torch.device:
    """The device of this process: the one of that name, or for several processes of a machine a GPU each.

    Raises RecipeError.
    """
    if ranks.count == 1:
        return chosen_device(name)
    if ":" in name:
        raise RecipeError(f"--device: several processes take a GPU each; write --device cuda instead of '{name}'")
    chosen = chosen_device(name)
    return chosen if chosen.type == "cpu" else chosen_device(f"cuda:{ranks.local_number}")


@contextmanager
def joined(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Meet the other processes, and leave them at the end. Raises ProcessesError."""
    if ranks.count == 1:
        yield
        return
    backend = "gloo"
    if device.type == "cuda":
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(device)
    try:
        store = store_of_start(ranks.number, ranks.count)
        dist.init_process_group(backend, None, LONGEST_WAIT, ranks.count, ranks.number, store)
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise ProcessesError(_why_not_met(error)) from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def check_processes(recipe: Recipe, count: int) -> None:
    """Raise RecipeError if `count` processes cannot train the recipe."""
    training = recipe.training
    if count > training.batch_size:
        raise RecipeError(
            f"training.batch_size: {count} processes, but batches of {training.batch_size} impressions; "
            "every process needs a part of each batch",
            ("training",),
            "batch_size",
        )
    if count > 1 and training.weighting.type in ("gradnorm", "pcgrad"):
        raise RecipeError(
            f"training.weighting: {training.weighting.type} compares the gradients of whole batches, of which each "
            "process has a part; train with one process, or with another weighting",
            ("training",),
            "weighting",
        )


@contextmanager
def _noticing_lost() -> Iterator[None]:
    """Raise LostProcessError if a message cannot be sent or received."""
    try:
        yield
    except RuntimeError as error:
        time.sleep(LAST_TO_END_S)
        reason = str(error).splitlines()[0]
        raise LostProcessError(f"another process of the run has ended: {reason}") from error


def _variable(name: str) -> int:
    """A number of torchrun's environment. Raises ProcessesError."""
    text = os.environ.get(name, "0" if name == "LOCAL_RANK" else "")
    if not text.isdecimal():
        raise ProcessesError(f"{name} is '{text}', which is no number; start the processes by torchrun")
    return int(text)


def _why_not_met(error: Exception) -> str:
    """Say why the processes did not meet."""
    address = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    text = str(error)
    if "EADDRINUSE" in text or "address already in use" in text.lower():
        return f"the port of {address} is in use; give torchrun another --rdzv-endpoint or --master-port"
    return f"the processes did not meet at {address}: {text.splitlines()[0]}"
