"""Opens the place to which services send the files of a log, so that a compaction can take them from there."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from loop.errors import LogError
from service.addresses.log_address import KAFKA, log_address, missing_extra


class LogSource(Protocol):
    """Where files of a log can be taken from. `foreign` counts what lies there and is no file of a log."""

    foreign: int

    def take(self, folder: Path) -> Sequence[str]:
        """Write some files to the spool of a log, each whole, and their schemas; return what was taken, or nothing
        if nothing is left. Raises LogError.
        """
        ...

    def remove(self, taken: Sequence[str]) -> None:
        """Remove at the source what a call of `take` has returned. Raises LogError."""
        ...


@contextmanager
def opened(uri: str | None) -> Iterator[LogSource | None]:
    """Open the source of a URI; None without one. Raises LogError."""
    if uri is None:
        yield None
        return
    try:
        address = log_address(uri)
    except ValueError as error:
        raise LogError(f"{uri}: {error}") from None
    missing = missing_extra(address)
    if missing:
        raise LogError(missing)
    if address.scheme == KAFKA:
        from loop.log.kafka import KafkaSource

        with closing(KafkaSource(address)) as source:
            yield source
        return
    from loop.log.objects import ObjectSource

    yield ObjectSource(address)
