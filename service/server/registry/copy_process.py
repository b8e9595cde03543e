"""Runs the copier of a registry as a process of its own, so that it takes no time from a ranking.

`python -m service.server.registry.copy_process FOLDER MOST_MIB POLL_MS LEVEL` writes `ready` or a problem as its first
line. It ends when its standard input does: when the service stops or is killed.
"""

import logging
import os
import select
import signal
import sys
from pathlib import Path

from service import log as service_log
from service.exposures.ship_process import READY
from service.rollout.rollout import ROLLOUT_FILE
from service.server.registry.copier import RegistryCopier

log = logging.getLogger("funnelrank.objects")


def run(registry: Path, most_bytes: int, poll_seconds: float, level: str) -> int:
    """Copy until the service ends."""
    # A terminal or a container signals the whole group; the service ends this process last.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(10)
    service_log.configure(level)
    copier = RegistryCopier(registry, most_bytes)
    problem = copier.start()
    # Without the store, the last good state serves, if there is one.
    if problem and not (registry / ROLLOUT_FILE).exists():
        print(problem, flush=True)
        return 1
    print(READY, flush=True)
    while not select.select([sys.stdin], [], [], poll_seconds)[0]:
        try:
            copier.step()
        except Exception:
            log.exception("the copy of the registry could not be brought up to date; it is tried again")
    return 0


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), int(sys.argv[2]) << 20, int(sys.argv[3]) / 1000, sys.argv[4]))
