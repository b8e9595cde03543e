"""Shows the progress of a long call: a bar in a terminal, or one line at the end if the output is a log."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def progress(title: str, unit: str, total: int | None = None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the amount of new work done, in `unit`. After an error, no line is written to a
    log.
    """
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, desc=title, unit=f" {unit}") as bar:

            def advance(more: int) -> None:
                bar.update(more)

            yield advance
        return
    counts = [done]
    yield counts.append
    share = "" if total is None else "100% of "
    sys.stderr.write(f"{title}: {share}{sum(counts)} {unit}\n")
    sys.stderr.flush()


def note(text: str) -> None:
    """Write a line on stderr without breaking a progress bar."""
    tqdm.write(text, file=sys.stderr)
