"""The lines that the benchmark prints."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.contenders.profiled import Called
from bench.graphs import Compared
from bench.results.targets import overhead_ms

Table = Mapping[tuple[int, int], Mapping[str, float]]


def machine() -> dict[str, Any]:
    """Describe the machine: processor, cores, Python, and its load."""
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": model[0] if model else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": os.getloadavg(),
    }


def heading(recipe: str) -> str:
    return f"\n== {recipe} == CPU ms per request, process tree, {machine()}"


def table(costs: Table) -> str:
    lines = [f"{'C':>5} {'L':>3} {'raw ORT':>9} {'empty':>7} {'service':>9} {'peer':>9} "]
    lines[0] += f"{'overhead/empty':>15} {'us/candidate':>13} {'peer/service':>13}"
    for (count, length), of in costs.items():
        beside = overhead_ms(of)
        peer = of["peer"]
        lines.append(
            f"{count:>5} {length:>3} {of['raw']:>9.3f} {of['empty']:>7.3f} {of['service']:>9.3f} {peer:>9.3f} "
            f"{beside / of['empty']:>15.2f} {beside * 1000 / count:>13.2f} {peer / of['service']:>13.2f}"
        )
    return "\n".join(lines)


def more(costs: Mapping[str, Any], memory: Mapping[str, float]) -> str:
    return (
        f"cold candidates {costs['cold_ms']:.3f} ms, warm {costs['warm_ms']:.3f} ms; "
        f"{costs['items']:,} items in Redis: {costs['many_items']['service']:.3f} ms, "
        f"10,000: {costs['few_items']['service']:.3f} ms, and with 100 more versions published: "
        f"{costs['many_versions']['service']:.3f} ms; "
        f"memory of the worker {memory['rss']:.0f} MiB resident, {memory['pss']:.0f} MiB proportional"
    )


def stage_table(steps: Mapping[str, float], whole: Mapping[str, float]) -> str:
    rest = whole["service"] * 1000 - sum(steps.values())
    lines = ["stage, C=200 L=50 (called alone, caches hot)", *(f"{us:>9.1f} us  {name}" for name, us in steps.items())]
    return "\n".join(
        [
            *lines,
            f"{rest:>9.1f} us  the rest: HTTP, event loop, sockets, metrics, and caches that are colder in a server",
        ]
    )


def profile(functions: Sequence[Called], candidates: int) -> str:
    lines = [f"profile of the worker's loop, {candidates} candidates, per request (the profiler's own cost included):"]
    lines += [
        f"{c.calls:>8.2f} calls {c.own_us:>8.1f} us own {c.all_us:>8.1f} us in all  {c.name}" for c in functions[:20]
    ]
    most = max(functions, key=lambda c: c.calls)
    return "\n".join(
        [
            *lines,
            f"none is called once per candidate; most often called is {most.name}, {most.calls:.0f} times",
        ]
    )


def graphs(compared: Sequence[Compared]) -> str:
    lines = ["exported graph against the naive export, ms per run:"]
    lines += [
        f"  C={c.candidates:<4} L={c.behaviours:<3} {c.graph_ms:.3f} against {c.naive_ms:.3f}: "
        f"{c.ratio:.2f} x, difference {c.difference:.1e}"
        for c in compared
    ]
    return "\n".join(lines)


def density(costs: Table) -> str:
    """End to end over HTTP: the number of candidates that one core ranks in a second."""
    parts = [f"C={c} L={n}: {c / of['service'] * 1000:,.0f}" for (c, n), of in costs.items() if c >= 200]
    return f"candidates per second per core, end to end over HTTP: {'; '.join(parts)}"
