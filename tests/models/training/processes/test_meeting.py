"""Tests that the processes of a start meet, although the store has what earlier starts have left there."""

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from torch.distributed import TCPStore

from models.training.processes.meeting import is_prepared, say_prepared, store_of_start

COUNT = 3


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadPoolExecutor]:
    """Threads that stand for processes, with a store as torchrun keeps it: one for all starts."""
    store = TCPStore("127.0.0.1", 0, is_master=True)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    with ThreadPoolExecutor(COUNT) as pool:
        yield pool


def name(number: int) -> str:
    """What the first process to come has written in the store of this start."""
    written: bytes = store_of_start(number, COUNT).compare_set("name", "", uuid.uuid4().hex)
    return written.decode()


def test_the_processes_of_each_start_agree_on_a_name_that_no_other_start_has(threads: ThreadPoolExecutor) -> None:
    names = [set(threads.map(name, range(COUNT), timeout=60)) for _ in range(4)]
    assert [len(of_start) for of_start in names] == [1] * 4
    assert len(set.union(*names)) == 4


@pytest.mark.parametrize("late", range(COUNT))
def test_a_process_that_comes_before_another_one_does_not_take_the_name_of_an_earlier_start(
    threads: ThreadPoolExecutor, late: int
) -> None:
    earlier = set(threads.map(name, range(COUNT), timeout=60))
    early: list[Future[str]] = [threads.submit(name, number) for number in range(COUNT) if number != late]
    time.sleep(0.2)
    assert late != 0 or not any(future.done() for future in early), "without process 0 no start has a name"
    names = {threads.submit(name, late).result(60), *(future.result(60) for future in early)}
    assert len(names) == 1
    assert not names & earlier


@pytest.mark.usefixtures("threads")
def test_a_later_start_knows_whether_its_launch_has_prepared_the_folder() -> None:
    assert not is_prepared()
    say_prepared()
    assert is_prepared()


@pytest.mark.parametrize("word", [None, "False"])
@pytest.mark.usefixtures("threads")
def test_without_the_store_of_a_launch_nothing_was_prepared(monkeypatch: pytest.MonkeyPatch, word: str | None) -> None:
    say_prepared()
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
    if word is not None:
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", word)
    say_prepared()
    assert not is_prepared()
