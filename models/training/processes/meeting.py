"""The key-value store by which the processes of one start find each other, and no process of an earlier start."""

import time
import uuid

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

_START = "funnelrank/start"
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
