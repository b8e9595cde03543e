"""Shows the progress of a long call: a bar in a terminal, and one line at its end where the output is a log."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def progress(what: str, unit: str, total: int | None = None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A function that takes the amount of new work done, in `unit`. An error inside leaves no line in a log."""
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, desc=what, unit=f" {unit}") as bar:

            def advance(more: int) -> None:
                bar.update(more)

            yield advance
        return
    counts = [done]
    yield counts.append
    share = "" if total is None else "100% of "
    sys.stderr.write(f"{what}: {share}{sum(counts)} {unit}\n")
    sys.stderr.flush()


def note(text: str) -> None:
    """A line on stderr that leaves a bar whole."""
    tqdm.write(text, file=sys.stderr)
