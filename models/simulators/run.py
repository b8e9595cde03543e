"""Runs a simulator over seeds, tabulates its measures, and writes the table into a page."""

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from features.files.writing import write_whole
from models.simulators.base import Result, Simulator
from models.simulators.batch_norm import SIMULATOR as BATCH_NORM
from models.simulators.delay import SIMULATOR as DELAY
from models.simulators.funnel import SIMULATOR as FUNNEL
from models.simulators.position import SIMULATOR as POSITION
from models.simulators.selection import SIMULATOR as SELECTION
from models.simulators.transfer import SIMULATOR as TRANSFER
from models.simulators.watch_time import SIMULATOR as WATCH_TIME

SIMULATORS = {s.name: s for s in (SELECTION, FUNNEL, POSITION, TRANSFER, DELAY, WATCH_TIME, BATCH_NORM)}
HEADING = """# Known-truth simulators

Worlds whose probabilities are known, so that a paper's claim can be seen to hold or not. Each section is written by its
command.
"""


def write_log(name: str, size: float, folder: Path) -> None:
    """Write the tables of a simulator's world with seed 1. Raises ValueError for a simulator that offers no log."""
    write = SIMULATORS[name].log
    if write is None:
        named = ", ".join(simulator.name for simulator in SIMULATORS.values() if simulator.log)
        raise ValueError(f"'{name}' has no log to train on; those with one: {named}")
    write(1, size, folder)


def results(simulator: Simulator, seeds: Sequence[int], size: float) -> list[Result]:
    """Return the measures of every seed; each seed runs in a temporary folder."""
    by_seed = []
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="simulator-") as folder:
            by_seed.append(simulator.run(seed, size, Path(folder)))
    return by_seed


def section(simulator: Simulator, by_seed: Sequence[Result], size: float, seconds: float) -> str:
    """The simulator's section as Markdown: world, measures, and for each comparison the margin over the seeds."""
    scale = "" if size == 1 else f" --size {size:g}"
    lines = [
        f"## {simulator.name}",
        "",
        f"Claim: {simulator.claim}",
        "",
        f"World: {simulator.world} Training uses the repository's own recipes.",
        "",
    ]
    command = f"`funnelrank simulate {simulator.name} --seeds {len(by_seed)}{scale}`"
    lines += [f"{command}, {seconds:.0f} s of one processor:", ""]
    return "\n".join([*lines, *_measures(by_seed), "", *_margins(simulator, by_seed)]) + "\n"


def _measures(by_seed: Sequence[Result]) -> Iterator[str]:
    names = list(next(iter(by_seed[0].values())))
    yield "| setting | model | " + " | ".join(names) + " |"
    yield "|---" * (2 + len(names)) + "|"
    for setting, model in by_seed[0]:
        cells = [_mean([result[setting, model][name] for result in by_seed]) for name in names]
        yield f"| {setting} | {model} | " + " | ".join(cells) + " |"


def _margins(simulator: Simulator, by_seed: Sequence[Result]) -> Iterator[str]:
    yield "| claimed | measure | margin | holds in | verdict |"
    yield "|---|---|---|---|---|"
    for c in simulator.comparisons:
        margins = [c.margin(result) for result in by_seed]
        successes = sum(margin > 0 for margin in margins)
        verdict = "shows" if successes == len(margins) else "does not show" if successes == 0 else "unsettled"
        claimed = f"{c.model} better than {c.other}" + (f" ({c.setting})" if c.setting else "")
        yield f"| {claimed} | {c.measure} | {_mean(margins)} | {successes} of {len(margins)} seeds | {verdict} |"


def _mean(values: Sequence[float]) -> str:
    digits = 0 if abs(values[0]) >= 100 else 1 if abs(values[0]) >= 5 else 3
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{deviation}"


def put_section(page: Path, name: str, text: str) -> None:
    """Write a section into a page; if the page has it already, replace it."""
    before = page.read_text() if page.is_file() else HEADING
    opening, *sections = before.split("\n## ")
    by_name = {s.split("\n", 1)[0]: f"## {s.rstrip()}\n" for s in sections} | {name: text}
    page.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join([opening.rstrip() + "\n", *(by_name[n] for n in SIMULATORS if n in by_name)])
    write_whole(page, text.encode())


def simulate(name: str, seeds: int, size: float, out: Path | None) -> str:
    """Return the section of one simulator over seeds 1 to `seeds`; also write it into the page `out` if it is given."""
    torch.set_num_threads(1)
    started = time.process_time()
    with contextlib.redirect_stdout(sys.stderr):
        measures = results(SIMULATORS[name], range(1, seeds + 1), size)
    text = section(SIMULATORS[name], measures, size, time.process_time() - started)
    if out:
        put_section(out, name, text)
    return text
