"""The scale benchmark: runs its parts one after the other, and prints every target with PASS or MISS."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import orjson

from bench.results import report
from bench.scale import logs, processes, redis_nodes, serving, training
from bench.scale.parts import PartResult, ScaleSizes

# A new part: its file, and a line here. Its sizes are fields of ScaleSizes and options of `funnelrank bench-scale`.
PARTS: Mapping[str, Callable[[ScaleSizes], PartResult]] = {
    "training": training.measure,
    "processes": processes.measure,
    "serving": serving.measure,
    "logs": logs.measure,
    "redis": redis_nodes.measure,
}


def run_scale(sizes: ScaleSizes, names: Sequence[str], out: Path) -> bool:
    """Run the parts `names` (all of them if empty), and write their figures to `out`; True if every target is met."""
    machine = report.machine()
    print(f"scale: {machine}")
    results: dict[str, PartResult] = {}
    for name in names or tuple(PARTS):
        started = time.perf_counter()
        results[name] = PARTS[name](sizes)
        print(f"\n== {name} == {time.perf_counter() - started:.0f} s")
        for line in results[name].lines:
            print(line)
    # The verdicts come last, together.
    print()
    verdicts = [verdict for result in results.values() for verdict in result.verdicts]
    for verdict in verdicts:
        print(verdict.line())
    figures = {
        name: result.figures | {"verdicts": [asdict(v) | {"passed": v.passed} for v in result.verdicts]}
        for name, result in results.items()
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine, "sizes": asdict(sizes), "parts": figures}
    out.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
    print(f"written: {out}")
    return all(verdict.passed for verdict in verdicts)
