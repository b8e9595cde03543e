"""Owns starting the service: what can be checked before a worker starts is checked here, then uvicorn takes over."""

import logging
import os
import signal
from types import FrameType

import uvicorn

from service import log as service_log
from service.bundle.registry import folder_of
from service.bundle.verify import BundleRejected, read_manifest, verified_files
from service.fusion import FusionError, bind, plain_profiles, read_profiles
from service.fusion.document import read_followed_fusion
from service.rollout.follower import numerics_of
from service.rollout.rollout import RolloutUnreadable, read_followed
from service.server.connection import BoundedConnection
from service.server.runtime_folder import FOLDER_VARIABLE, runtime_folder
from service.settings import Settings, runtime_parents, unknown_variables

log = logging.getLogger("funnelrank.serve")
# A worker that dies while the supervisor waits for its sign of life is missed until this has passed; one that starts on a busy machine needs some.
_HEALTHCHECK_S = 15


class CannotStart(Exception):  # noqa: N818 - a state that is told, not a mistake
    """What an operator must put right before the service can start."""


def check_start(settings: Settings) -> None:
    """Raises CannotStart where the registry, the live bundle's files or the fusion profiles are not usable."""
    if not settings.registry.is_dir():
        raise CannotStart(f"the registry {settings.registry} is not a folder (FUNNELRANK_REGISTRY)")
    try:
        target = read_followed(settings.registry).stable
        manifest = read_manifest(folder_of(settings.registry, target), settings.trusted_keys)
        verified_files(folder_of(settings.registry, target), manifest)
        from_file = read_profiles(settings.fusion_file) if settings.fusion_file else None
        profiles = read_followed_fusion(settings.registry) or from_file or plain_profiles(manifest)
        bind(profiles, manifest.task_names, numerics_of(manifest))
    except (RolloutUnreadable, BundleRejected, FusionError) as error:
        raise CannotStart(str(error)) from None


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises CannotStart."""
    service_log.configure(settings.log_level)
    for variable in unknown_variables():
        log.warning("%s is no setting of this service; python -m service serve --help lists them", variable)
    check_start(settings)
    if not settings.admin_token.get_secret_value() and not settings.on_loopback:
        log.warning("FUNNELRANK_ADMIN_TOKEN is not set, so operators' calls are refused")
    if settings.workers == 1:
        return _serve(settings)
    with runtime_folder(runtime_parents(settings)) as folder:
        os.environ.pop(FOLDER_VARIABLE, None)
        if folder is not None:
            os.environ[FOLDER_VARIABLE] = str(folder)
        return _serve(settings)


def _serve(settings: Settings) -> int:
    # uvicorn raises the signal that ended it once more; this turns it into an exit that cleans up.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    try:
        uvicorn.run(
            "service.server.app:from_environment",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            loop="uvloop",
            http=BoundedConnection,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, settings.shutdown_timeout_ms // 1000),
            timeout_worker_healthcheck=_HEALTHCHECK_S,
            timeout_keep_alive=75,
        )
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
