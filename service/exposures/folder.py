"""Names what lies in the folder of an exposure log, and prepares it.

spool/<kind>-<time>-<worker>.arrows[.open]   Arrow IPC streams of the workers, until they are compacted
schemas/<schema>.json                        the feature schemas that exposures name
"""

import os
from pathlib import Path
from typing import Final

from features.files.writing import write_whole

SPOOL: Final = "spool"
FEATURE_SCHEMAS: Final = "schemas"
VERIFIED: Final = "verified.json"  # what the last verification counted, for the metrics
SUFFIX: Final = ".arrows"


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
