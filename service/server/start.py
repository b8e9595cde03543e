"""The data that a worker process gets from its supervisor at its start."""

from dataclasses import dataclass
from pathlib import Path

from service.fusion import FusionProfiles
from service.settings import Settings


@dataclass(frozen=True)
class WorkerStart:
    """Everything that a worker needs to start, so that it reads no file that only the first start has checked."""

    settings: Settings
    profiles: FusionProfiles | None = None  # of FUNNELRANK_FUSION_FILE, as they were when the file was last good
    folder: Path | None = None  # the run-time folder that the workers share
