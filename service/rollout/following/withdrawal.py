"""Withdraws a version that a worker refused: removes it from the rollout document, for all workers."""

import logging
from dataclasses import dataclass
from functools import partial

from service.bundle.hashes import HashRecords
from service.bundle.registry import Target
from service.documents import Edit
from service.errors import Conflict
from service.files import Attempt, run_attempt
from service.fusion import FusionProfiles
from service.metrics.metrics import Metrics
from service.rollout.lines.changes import change_rollout
from service.rollout.rollout import AUTOMATIC
from service.rollout.serving import Role
from service.rollout.trials.checks import RegistryChecks, go_back_to_startable
from service.settings import Settings

log = logging.getLogger("funnelrank.live")
_WRITE_SECONDS = 30.0


@dataclass(frozen=True)
class Withdrawal:
    """A change to write: remove the version of `role` from a line that has not changed since `revision`.

    `serving` stays live.
    """

    line: str
    role: Role
    revision: int
    reason: str
    serving: Target
    label: str = ""  # of the metrics: the line if there are several


class Withdrawals:
    """Withdrawals of one worker that have not been written yet."""

    def __init__(
        self, settings: Settings, started_with: FusionProfiles | None, metrics: Metrics, hashes: HashRecords
    ) -> None:
        self._settings = settings
        self._started_with = started_with
        self._metrics = metrics
        self._hashes = hashes
        self._waiting: list[Withdrawal] = []

    def add(self, withdrawal: Withdrawal) -> None:
        """Queue a withdrawal for the next `write`."""
        self._waiting.append(withdrawal)

    def clear(self) -> None:
        """Drop the queue, because the document has changed."""
        self._waiting.clear()

    async def write(self) -> None:
        """Write the queued withdrawals into the document, in a thread. The next call repeats a failed write."""
        while self._waiting:
            withdrawal = self._waiting[0]
            try:
                await run_attempt(partial(self._write, withdrawal), _WRITE_SECONDS, "the registry")
            except OSError as error:
                log.warning("the rollout document was not changed, and will be: %s", error.strerror)
                return
            except Conflict as error:
                log.warning("the rollout document stays as it is: %s (%s)", error, withdrawal.reason)
            else:
                self._metrics.rollbacks.labels(withdrawal.role.value, withdrawal.label).inc()
                log.error("rolled back by itself: %s", withdrawal.reason)
            self._waiting.pop(0)

    def _write(self, withdrawal: Withdrawal, attempt: Attempt) -> None:
        """Raises Conflict if somebody has changed the line meanwhile, OSError if the document cannot be written."""
        settings = self._settings
        edit = Edit(AUTOMATIC, withdrawal.reason)
        revision = withdrawal.revision
        if withdrawal.role == Role.STABLE:
            checks = RegistryChecks(
                settings.registry, settings.trusted_keys, self._started_with, settings.max_versions, self._hashes
            )
            go_back_to_startable(checks, withdrawal.line, withdrawal.serving, edit, revision, attempt)
            return
        changes = {"line": withdrawal.line, withdrawal.role.value: None}
        change_rollout(settings.registry, changes, edit, withdraws_since=revision, attempt=attempt)
