"""The key-value store by which the processes of one start find each other, and no process of an earlier start."""

import os
import time
import uuid

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

_START = "funnelrank/start"
_PREPARED = "funnelrank/prepared"
_BETWEEN_QUESTIONS_S = 0.05


def store_of_start(number: int, count: int) -> Store:
    """The part of torchrun's store that the processes of this start have, and no earlier ones.

    torchrun keeps one store while it starts processes again and again, and each process writes its address there. A
    process that reads the address of one that has ended waits for it for ever. So process 0 names the start, and a
    process believes the name only after process 0 has answered it.
    """
    store, _, _ = next(rendezvous("env://", number, count))
    name = _name_start(store, count) if number == 0 else _answered_name(store, number)
    return PrefixStore(name, store)


def _name_start(store: Store, count: int) -> str:
    name = uuid.uuid4().hex
    store.set(_START, name)
    for number in range(1, count):
        question = store.get(f"{name}/{number}").decode()
        store.set(f"{name}/{question}", "")
    return name


def _answered_name(store: Store, number: int) -> str:
    question = uuid.uuid4().hex
    while True:
        name: str = store.get(_START).decode()
        store.set(f"{name}/{number}", question)
        if store.check([f"{name}/{question}"]):
            return name
        time.sleep(_BETWEEN_QUESTIONS_S)


def say_prepared() -> None:
    """Record, for later starts of the same launch, that the folder of the run has the files of this run alone.

    Called by process 0 whenever it has prepared the folder. Nothing is recorded if torchrun did not start it.
    """
    store = _store_of_launch()
    if store is not None:
        store.set(_PREPARED, "")


def is_prepared() -> bool:
    """Whether an earlier start of this launch has prepared the folder of the run.

    Otherwise what lies there, a finished run perhaps, is that of an earlier launch, also if torchrun counts restarts.
    """
    store = _store_of_launch()
    return store is not None and bool(store.check([_PREPARED]))


def _store_of_launch() -> Store | None:
    """The store of torchrun itself, which all starts of a launch have; None if the processes keep one of their own."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    store, _, _ = next(rendezvous("env://", 0, 1))  # one more client, whatever the number of this process
    return store
