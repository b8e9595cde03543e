"""Names what lies in the folder of an exposure log, and prepares it.

spool/<kind>-<time>-<worker>.arrows[.open]   Arrow IPC streams of the workers, until they are compacted
schemas/<schema>.json                        the feature schemas that exposures name
"""

import fcntl
import os
import re
import time
from pathlib import Path
from typing import Final

from features.files.writing import write_whole

SPOOL: Final = "spool"
FEATURE_SCHEMAS: Final = "schemas"
VERIFIED: Final = "verified.json"  # what the last verification counted, for the metrics
SHIPPED: Final = "shipped.json"  # what the shipper counted, for the metrics
SUFFIX: Final = ".arrows"
# A part of a file, as Kafka takes it, has the number of the part.
STREAM_NAME: Final = re.compile(r"(exposures|impressions|events)-\d{13}-[0-9a-f]{12}(\.\d{4,8})?\.arrows(\.open)?")
_FRESH_SECONDS = 2.0  # a file is locked as soon as it is made


def keep_schema(folder: Path, name: str, document: bytes) -> None:
    """Keep a feature schema beside the records that name it."""
    path = folder / FEATURE_SCHEMAS / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_whole(path, document)


def prepare(folder: Path) -> None:
    """Create the folder of a log. Raises OSError if nothing can be written there."""
    (folder / SPOOL).mkdir(parents=True, exist_ok=True)
    trial = folder / SPOOL / f".trial-{os.getpid()}"
    trial.write_bytes(b"")
    trial.unlink()


def has_writer(path: Path) -> bool:
    """Whether a living process writes to a file: it has the file's lock, or is about to take it."""
    if not path.name.endswith(".open"):
        return False
    try:
        # A file from the future was written before the clock was set back.
        if abs(time.time() - path.stat().st_mtime) < _FRESH_SECONDS:
            return True
        # Without waiting: a pipe that has the name of such a file must not hold up the others.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:  # it has just been closed under its final name
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
