"""Creates and removes the run-time folder of one start: a private folder, in memory if possible."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from features.files.unfinished import remove_abandoned, unfinished_folder

log = logging.getLogger("funnelrank.serve")
_PREFIX = "funnelrank-metrics-"


@contextmanager
def runtime_folder(parents: Sequence[Path]) -> Iterator[Path | None]:
    """Create a folder in the first of `parents` that permits it; return None, and write one log line, if none does.

    Folders of starts that were killed are removed.
    """
    problem = ""
    for parent in parents:
        with ExitStack() as stack:
            try:
                parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                remove_abandoned(parent, f"{_PREFIX}*")
                folder = stack.enter_context(unfinished_folder(parent, _PREFIX))
            except OSError as error:
                problem = f"{parent}: {error.strerror}"
                continue
            yield folder
            return
    log.error("no run-time folder can be created, so every worker has metrics of its own: %s", problem)
    yield None
