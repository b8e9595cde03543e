"""Runs the shipper of an exposure log as a process of its own, so that it takes no time from a ranking.

`python -m service.exposures.ship_process FOLDER URI LEVEL` writes `ready` or a problem as its first line. It ends when
its standard input does: when the service stops or is killed.
"""

import contextlib
import os
import select
import signal
import sys
from pathlib import Path
from typing import Final

from service import log as service_log
from service.addresses.log_address import log_address
from service.exposures.shipper import Shipper
from service.exposures.targets.opening import open_target
from service.exposures.targets.target import LogTargetError

READY: Final = "ready"


def run(folder: Path, uri: str, level: str) -> int:
    """Send files until the service ends, then those that it closed at its end."""
    # A terminal or a container signals the whole group; the files of the workers that stop come later than the signal.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(10)
    service_log.configure(level)
    try:
        target = open_target(log_address(uri))
        shipper = Shipper(folder, target)
    except (LogTargetError, OSError) as error:
        print(error, flush=True)
        return 1
    print(READY, flush=True)
    with contextlib.closing(shipper):
        pause = 0.0
        while not select.select([sys.stdin], [], [], pause)[0]:
            pause = shipper.step()
        shipper.step()
    return 0


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
