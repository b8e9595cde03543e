"""Reads the cores, CPU time and memory of a process tree from /proc.

CPU time includes neither the work of other programs nor the time that a client waits.
"""

import os
from pathlib import Path

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


def cores() -> tuple[set[int], set[int]]:
    """Return one core for the server under test, and the others for its load.

    Returns all cores for both if there is only one, or if they are unknown.
    """
    if not hasattr(os, "sched_getaffinity"):
        return set(), set()
    first, *others = sorted(os.sched_getaffinity(0))
    return ({first}, set(others)) if others else ({first}, {first})


def stay_on(chosen: set[int]) -> None:
    """Pin this process, and those that it will start, to these cores."""
    if chosen:
        os.sched_setaffinity(0, chosen)


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    pids = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            pids += tree(int(child))
    return pids


def cpu_seconds(pid: int) -> float:
    """User and system time of a process tree so far."""
    return sum(_of_process(p) for p in tree(pid))


def _of_process(pid: int) -> float:
    """In nanoseconds if the kernel keeps that (schedstat), otherwise in the ticks of /proc/<pid>/stat."""
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    try:
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) * 1e-9
    except FileNotFoundError:
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) * _TICK_SECONDS


def memory_mib(pid: int) -> dict[str, float]:
    """Resident and proportional set size of one process; the second divides shared pages among their processes."""
    sizes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        sizes[name] = int(value) / 1024
    return {"rss": sizes["Rss:"], "pss": sizes["Pss:"]}
