"""The progress bars of the command."""

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(title: str, total: int | None, unit: str, quiet: bool) -> "tqdm[Any]":
    """A bar on stderr; without a terminal it writes a line every 15 seconds. `total` is None if it is unknown."""
    interval = 0.2 if sys.stderr.isatty() else 15
    return tqdm(desc=title, total=total, unit=f" {unit}", disable=quiet, dynamic_ncols=True, mininterval=interval)
