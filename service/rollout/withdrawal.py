"""Withdraws a version that a worker refused: takes it out of the rollout document, for all workers."""

from dataclasses import dataclass

from service.bundle.registry import Target
from service.files import Attempt
from service.fusion import FusionProfiles
from service.rollout.checks import RegistryChecks, go_back_to_startable
from service.rollout.rollout import AUTOMATIC, change_rollout
from service.rollout.serving import Role
from service.settings import Settings


@dataclass(frozen=True)
class Withdrawal:
    """What is to be written: the version of `role` goes, unless the document has left `revision`; `serving` goes on."""

    role: Role
    revision: int
    reason: str
    serving: Target


def withdraw(settings: Settings, started_with: FusionProfiles | None, withdrawal: Withdrawal, attempt: Attempt) -> None:
    """Write a withdrawal. Raises Conflict where somebody has changed the document meanwhile, OSError where it cannot be written."""
    registry = settings.registry
    if withdrawal.role == Role.STABLE:
        checks = RegistryChecks(registry, settings.trusted_keys, started_with)
        go_back_to_startable(checks, withdrawal.serving, AUTOMATIC, withdrawal.reason, withdrawal.revision, attempt)
        return
    change_rollout(
        registry,
        {withdrawal.role.value: None},
        AUTOMATIC,
        reason=withdrawal.reason,
        expected_revision=withdrawal.revision,
        withdraws=True,
        attempt=attempt,
    )
