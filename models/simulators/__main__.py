"""Owns `python -m models.simulators`: run a simulator over seeds, print its table, and keep it in a page."""

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from models.simulators.base import Result, Simulator
from models.simulators.funnel import SIMULATOR as FUNNEL
from models.simulators.position import SIMULATOR as POSITION
from models.simulators.selection import SIMULATOR as SELECTION
from models.simulators.transfer import SIMULATOR as TRANSFER

SIMULATORS = {s.name: s for s in (SELECTION, FUNNEL, POSITION, TRANSFER)}
HEADING = """# Known-truth simulators

Worlds whose probabilities are known, so that a paper's claim can be seen to hold or not. Each section is written by its command.
"""
EXAMPLE = """example:
  python -m models.simulators selection --seeds 3 --out docs/simulators.md
"""


def results(simulator: Simulator, seeds: Sequence[int], size: float) -> list[Result]:
    """The measures of every seed, each in a folder that goes afterwards."""
    found = []
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="simulator-") as folder:
            found.append(simulator.run(seed, size, Path(folder)))
    return found


def section(simulator: Simulator, found: Sequence[Result], size: float, seconds: float) -> str:
    """The simulator's section as markdown: world, measures, and for each comparison the margin over the seeds."""
    scale = "" if size == 1 else f" --size {size:g}"
    lines = [
        f"## {simulator.name}",
        "",
        f"Claim: {simulator.claim}",
        "",
        f"World: {simulator.world} Training uses the repository's own recipes.",
        "",
    ]
    lines += [
        f"`python -m models.simulators {simulator.name} --seeds {len(found)}{scale}`, {seconds:.0f} s of one processor:",
        "",
    ]
    return "\n".join([*lines, *_measures(found), "", *_margins(simulator, found)]) + "\n"


def _measures(found: Sequence[Result]) -> Iterator[str]:
    names = list(next(iter(found[0].values())))
    yield "| setting | model | " + " | ".join(names) + " |"
    yield "|---" * (2 + len(names)) + "|"
    for setting, model in found[0]:
        cells = [_mean([result[setting, model][name] for result in found]) for name in names]
        yield f"| {setting} | {model} | " + " | ".join(cells) + " |"


def _margins(simulator: Simulator, found: Sequence[Result]) -> Iterator[str]:
    yield "| claimed | measure | margin | holds in | verdict |"
    yield "|---|---|---|---|---|"
    for c in simulator.comparisons:
        margins = [c.margin(result) for result in found]
        held = sum(margin > 0 for margin in margins)
        verdict = "shows" if held == len(margins) else "does not show" if held == 0 else "unsettled"
        claimed = f"{c.model} better than {c.other}" + (f" ({c.setting})" if c.setting else "")
        yield f"| {claimed} | {c.measure} | {_mean(margins)} | {held} of {len(margins)} seeds | {verdict} |"


def _mean(values: Sequence[float]) -> str:
    digits = 0 if abs(values[0]) >= 100 else 1 if abs(values[0]) >= 5 else 3
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{deviation}"


def put_section(page: Path, name: str, text: str) -> None:
    """Write a section into a page, in place of the same one if it is there."""
    before = page.read_text() if page.is_file() else HEADING
    opening, *sections = before.split("\n## ")
    kept = {s.split("\n", 1)[0]: f"## {s.rstrip()}\n" for s in sections} | {name: text}
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join([opening.rstrip() + "\n", *(kept[n] for n in SIMULATORS if n in kept)]))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.simulators",
        description="Simulate a world with known truth, train models on it and measure them against the truth: mean and deviation over seeds.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=list(SIMULATORS), metavar="NAME", help=", ".join(SIMULATORS))
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 1 to N (default: 3)")
    parser.add_argument(
        "--size", type=float, default=1.0, metavar="X", help="scale the number of impressions (default: 1)"
    )
    parser.add_argument("--out", type=Path, metavar="PAGE.md", help="put the section into this page as well")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    started = time.process_time()
    with contextlib.redirect_stdout(sys.stderr):
        found = results(SIMULATORS[given.name], range(1, given.seeds + 1), given.size)
    text = section(SIMULATORS[given.name], found, given.size, time.process_time() - started)
    if given.out:
        put_section(given.out, given.name, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
