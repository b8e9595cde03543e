"""Keeps the process running that copies a registry from an object store."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.addresses.registry_address import MEMORY, uri_of
from service.server.helper_process import Helper, HelperNotStarted, running
from service.settings import Settings

_START_SECONDS = 600.0  # in which the live versions are fetched


@contextmanager
def copied_registry(settings: Settings) -> Iterator[None]:
    """Keep the copy of a registry up to date during the block; a registry in a folder needs nothing.

    Raises HelperNotStarted if the store does not answer and there is no copy of an earlier start.
    """
    uri = uri_of(settings.registry)
    if uri is None:
        yield
        return
    if uri.startswith(f"{MEMORY}://"):
        raise HelperNotStarted(f"{uri} is within one process, and a service has several")
    numbers = (str(settings.registry_cache_mb), str(settings.rollout_poll_ms))
    helper = Helper(
        title="the process that copies the registry",
        arguments=(
            "service.server.registry.copy_process",
            str(settings.registry),
            *numbers,
            settings.log_level,
        ),
        start_seconds=_START_SECONDS,
        stop_seconds=1.0,  # whatever it does appears whole or not at all, and it may wait for a store that is away
        longest_restart_seconds=60.0,
    )
    with running(helper):
        yield
