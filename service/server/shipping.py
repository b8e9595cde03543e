"""Keeps the shipper process of an exposure log running while the service does."""

from contextlib import AbstractContextManager
from pathlib import Path

from service.server.helper_process import Helper, running


def shipping(folder: Path, uri: str, level: str) -> AbstractContextManager[None]:
    """Send the closed files of `folder` to the target `uri` during the block, and the last ones after it.

    Raises HelperNotStarted.
    """
    return running(
        Helper(
            title="the shipper of the exposure log",
            arguments=("service.exposures.ship_process", str(folder), uri, level),
            start_seconds=30.0,
            stop_seconds=10.0,  # in which the last files are sent; what is left is sent after the next start
            longest_restart_seconds=300.0,
            unfinished="the last files of the exposure log were not sent in time; they are sent after the next start",
        )
    )
