"""Describes a target of the log.

A target gets whole files of the spool, under their names. A file may be sent twice, after a crash or a lost answer: the
name tells the reader that it is the same one.
"""

from pathlib import Path
from typing import Protocol


class LogTargetError(Exception):
    """A target that cannot be used, or refuses a file for now; the message says why."""


class LogTarget(Protocol):
    """Where closed files go. Only one thread calls its methods."""

    def send(self, path: Path) -> int:
        """Send a file of the spool; return how many of its records the target refuses for good.

        Raises LogTargetError if the file has to be sent again.
        """
        ...

    def send_schema(self, path: Path) -> None:
        """Send a feature schema, before the files whose records name it. Raises LogTargetError."""
        ...
