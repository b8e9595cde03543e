"""Tests the bench's measuring: it counts all CPU time of a process tree, and finds functions called per candidate."""

import os
import subprocess
import sys
import time

from bench.contenders.profiled import called, per_candidate
from bench.measuring.cpu import cores, cpu_seconds, memory_mib, stay_on, tree
from bench.measuring.measure import in_turn
from bench.results.targets import Verdict

BURN = "import time\nwhile time.process_time() < 0.3: pass"


def test_the_cpu_time_of_a_child_counts_and_sleep_does_not() -> None:
    child = f"[sys.executable, '-c', '''{BURN}\ntime.sleep(60)''']"
    code = f"import subprocess, sys, time\nsubprocess.Popen({child})\ntime.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        end = time.monotonic() + 20
        while cpu_seconds(parent.pid) < 0.3 and time.monotonic() < end:
            time.sleep(0.05)
        children = tree(parent.pid)
        assert len(children) == 2
        before = cpu_seconds(parent.pid)
        assert before >= 0.3
        time.sleep(0.3)
        assert cpu_seconds(parent.pid) - before < 0.1
    finally:
        for pid in reversed(tree(parent.pid)):
            os.kill(pid, 9)
        parent.wait()


def test_memory_is_resident_at_least_as_much_as_proportional() -> None:
    sizes = memory_mib(os.getpid())
    assert sizes["rss"] >= sizes["pss"] > 1


def test_what_is_measured_has_a_core_that_its_driver_keeps_off() -> None:
    before = os.sched_getaffinity(0)
    own, others = cores()
    assert own | others == before
    assert own.isdisjoint(others) or len(before) == 1
    try:
        stay_on(own)
        output = subprocess.run(
            [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert output.stdout.strip() == str(own)
    finally:
        stay_on(before)


def test_contenders_run_in_turn_and_the_lower_quartile_stands() -> None:
    order: list[str] = []
    spent = iter([0.1, 0.1, 1.0, 2.0, 9.0, 2.0, 3.0, 2.0, 4.0, 2.0, 9.0, 7.0])

    def contender(name: str):
        def cost(requests: int) -> float:
            order.append(name)
            return next(spent) * requests

        return cost

    result = in_turn({"a": contender("a"), "b": contender("b")}, rounds=5, round_seconds=1)
    assert order == ["a", "b"] * 6
    assert result == {"a": 3000.0, "b": 2000.0}, "the second smallest of five"


def test_a_function_called_once_per_candidate_is_named() -> None:
    rows = [["once", 100, 0.1, 0.2], ["row", 20_000, 0.3, 0.3]]
    result = called(rows, requests=100)
    assert [c.name for c in result] == ["row", "once"]
    assert [c.name for c in per_candidate(result, 200)] == ["row"]


def test_a_verdict_knows_its_side() -> None:
    assert Verdict("x", 3.0, 3.0, at_least=True).passed
    assert not Verdict("x", 3.1, 3.0, at_least=False).passed
    assert Verdict("x", 3.1, 3.0, at_least=False).line().startswith("MISS")
