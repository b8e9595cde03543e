"""Opens the target of an address."""

from service.addresses.log_address import KAFKA, LogAddress, missing_extra
from service.exposures.targets.target import LogTarget, LogTargetError


def open_target(address: LogAddress) -> LogTarget:
    """Open a target; no call is made yet. Raises LogTargetError."""
    missing = missing_extra(address)
    if missing:
        raise LogTargetError(missing)
    if address.scheme == KAFKA:
        from service.exposures.targets.kafka import KafkaTarget

        return KafkaTarget(address)
    from service.exposures.targets.objects import ObjectTarget, open_store

    return ObjectTarget(open_store(address))
