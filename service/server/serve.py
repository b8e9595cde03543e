"""Starts the service: checks as much as possible before a worker starts, binds the port, and runs the workers."""

import contextlib
import logging
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from service import log as service_log
from service.addresses.log_address import is_uri, log_address, missing_extra
from service.bundle.hashes import HashRecords
from service.bundle.verify import BundleRejected
from service.errors import DocumentError
from service.exposures.folder import prepare
from service.fusion import FusionError, FusionProfiles, read_profiles
from service.rollout.rollout import Rollout, RolloutUnreadable, read_followed
from service.rollout.trials.checks import RegistryChecks
from service.server.helper_process import HelperNotStarted
from service.server.registry.copying import copied_registry
from service.server.runtime_folder import runtime_folder
from service.server.shipping import shipping
from service.server.start import WorkerStart
from service.server.supervisor import Supervisor
from service.server.worker import run_in_process
from service.settings import Settings, runtime_parents, unknown_variables
from service.settings_help import unknown_variable
from service.store import opening
from service.tracing.opening import MISSING, is_installed

log = logging.getLogger("funnelrank.serve")
_READ_SECONDS = 5.0


class CannotStart(Exception):  # noqa: N818 - a state that is reported, not a programming error
    """The service cannot start; the message says what an operator has to correct."""


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code. Raises CannotStart."""
    service_log.configure(settings.log_level)
    for variable in unknown_variables():
        log.warning("%s", unknown_variable(variable))
    if not settings.admin_token.get_secret_value() and not settings.on_loopback:
        log.warning("FUNNELRANK_ADMIN_TOKEN is not set, so operators' calls are refused")
    if not settings.user_ttl_s or not settings.behaviour_ttl_s:
        log.warning(
            "users or their behaviours never expire, so Redis grows with every new user; "
            "FUNNELRANK_USER_TTL_S and FUNNELRANK_BEHAVIOUR_TTL_S end that, `funnelrank size` plans the memory"
        )
    with present_registry(settings):
        return serve_registry(settings)


def serve_registry(settings: Settings) -> int:
    """Serve what the registry has. Raises CannotStart."""
    hashes = HashRecords()
    profiles = check_start(settings, hashes)
    raise_file_limit()
    with contextlib.closing(bound_socket(settings.host, settings.port)) as listener, sent_log(settings):
        if settings.workers == 1:
            return run_in_process(WorkerStart(settings, profiles, hashes=hashes), [listener])
        with runtime_folder(runtime_parents(settings)) as folder:
            # The workers get what was hashed here, and share what they hash later.
            start = WorkerStart(settings, profiles, folder, hashes=HashRecords(folder, hashes.known))
            return Supervisor([listener], start, with_current_profiles).run()


def check_start(settings: Settings, hashes: HashRecords | None = None) -> FusionProfiles | None:
    """Check the registry, the files of the stable version and the fusion profiles; return the profiles of the fusion
    file.

    Raises CannotStart, unless an earlier stable version of the history can be started.
    """
    try:
        opening.check(settings.redis_url.get_secret_value())
    except ValueError as error:
        raise CannotStart(f"FUNNELRANK_REDIS_URL: {error}") from None
    if settings.exposure_log:
        check_log(settings)
    if settings.otlp_endpoint and not is_installed():
        raise CannotStart(MISSING)
    if not settings.registry.is_dir():
        raise CannotStart(f"the registry {settings.registry} is not a folder (FUNNELRANK_REGISTRY)")
    try:
        rollout = read_followed(settings.registry)
        started_with = read_profiles(settings.fusion_file) if settings.fusion_file else None
        checks = RegistryChecks(settings.registry, settings.trusted_keys, started_with, settings.max_versions, hashes)
        target = checks.first_startable(rollout)
        if target != rollout.stable:
            log.error("%s cannot be started; the earlier version %s serves", rollout.stable, target)
        for line in rollout.lines:
            check_line(checks, rollout, line)
    except (RolloutUnreadable, BundleRejected, DocumentError) as error:
        raise CannotStart(str(error)) from None
    return started_with


def check_line(checks: RegistryChecks, rollout: Rollout, line: str) -> None:
    """Log an error if no version of a line can be started; the default line then serves its scenes."""
    try:
        checks.first_startable(rollout, line)
    except (BundleRejected, DocumentError) as error:
        log.error("line %s cannot be started, and the default line serves its scenes: %s", line, error)


def check_log(settings: Settings) -> None:
    """Create the folder of the exposure log. Raises CannotStart, because a requested log must be writable at
    the start, and the extra of its target must be installed.
    """
    folder = settings.log_folder
    if folder is None:
        raise CannotStart(
            f"FUNNELRANK_EXPOSURE_SPOOL: a log at {settings.exposure_log} needs a folder for files that wait"
        )
    if is_uri(settings.exposure_log):
        missing = missing_extra(log_address(settings.exposure_log))
        if missing:
            raise CannotStart(f"FUNNELRANK_EXPOSURE_LOG: {missing}")
    variable = "FUNNELRANK_EXPOSURE_SPOOL" if is_uri(settings.exposure_log) else "FUNNELRANK_EXPOSURE_LOG"
    try:
        prepare(folder)
    except OSError as error:
        raise CannotStart(f"{variable}: {folder} cannot be written to: {error.strerror}") from None


@contextmanager
def sent_log(settings: Settings) -> Iterator[None]:
    """Send closed files of the exposure log to its target, if it has one. Raises CannotStart."""
    folder = settings.log_folder
    if folder is None or not is_uri(settings.exposure_log):
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(shipping(folder, settings.exposure_log, settings.log_level))
        except HelperNotStarted as error:
            raise CannotStart(f"FUNNELRANK_EXPOSURE_LOG: {error}") from None
        yield


@contextmanager
def present_registry(settings: Settings) -> Iterator[None]:
    """Keep the copy of a registry in an object store up to date. Raises CannotStart."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(copied_registry(settings))
        except HelperNotStarted as error:
            raise CannotStart(f"FUNNELRANK_REGISTRY: {error}") from None
        yield


def with_current_profiles(start: WorkerStart) -> WorkerStart:
    """Return the start with the fusion file read again; if the file cannot be used, unchanged and with a log line."""
    path = start.settings.fusion_file
    if path is None:
        return start
    profiles: list[FusionProfiles] = []
    problem = f"it was not read within {_READ_SECONDS:g} s"

    def read() -> None:
        nonlocal problem
        try:
            profiles.append(read_profiles(path))
        except (FusionError, OSError) as error:
            problem = str(error)

    # In a thread, so that a hanging file system does not block the supervisor.
    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    reading.join(_READ_SECONDS)
    if profiles:
        return replace(start, profiles=profiles[0])
    log.error("the last good profiles stay in use, since %s cannot be used: %s", path, problem)
    return start


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard one: every connection needs a file descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # macOS has a limit below the one it tells
        log.warning("the limit of open files stays at %d: %s", soft, error)


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to the address and does not listen yet. Raises CannotStart."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise CannotStart(
            f"port {port} of {host} cannot be used ({error.strerror}): another service or a worker of an earlier start "
            "may listen there; end it or choose another FUNNELRANK_PORT"
        ) from None
    return listener
