"""The data that a worker process gets from its supervisor at its start."""

from dataclasses import dataclass, field
from pathlib import Path

from service.bundle.hashes import HashRecords
from service.fusion import FusionProfiles
from service.rules.pages import page_key, random_page_key
from service.settings import Settings


@dataclass(frozen=True)
class WorkerStart:
    """Everything that a worker needs to start, so that it reads no file that only the first start has checked."""

    settings: Settings
    profiles: FusionProfiles | None = None  # of FUNNELRANK_FUSION_FILE, as they were when the file was last good
    folder: Path | None = None  # the run-time folder that the workers share
    hashes: HashRecords = field(default_factory=HashRecords)  # of large files, which one process of a host reads
    # Drawn once per start of the service: without an admin token, there is no secret to derive a key from.
    random_key: bytes = field(default_factory=random_page_key, repr=False)

    @property
    def page_key(self) -> bytes:
        """The key of page tokens, the same in all workers."""
        secret = self.settings.admin_token.get_secret_value()
        return page_key(secret) if secret else self.random_key
