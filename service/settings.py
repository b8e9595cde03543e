"""Reads the settings from variables of the environment, each with its default, unit and bounds.

No other module reads the environment.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, SecretStr, ValidationError

from features.nearest import near_names
from service.addresses.log_address import log_folder
from service.setting_values import (
    LOG_HELP,
    RegistrySettings,
    StoreSettings,
    TraceSettings,
    is_loopback,
    known_log,
    origins,
    setting,
)

PREFIX = "FUNNELRANK_"
OTLP_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"  # a name of OpenTelemetry, the only variable without the prefix
_SAME_WORD = 0.9  # how close a name without the prefix is to a setting, at least, to be taken for a misspelt one


class SettingsError(ValueError):
    """One or more variables cannot be used; the message names each."""


_NONE = SecretStr("")


class Settings(TraceSettings, StoreSettings, RegistrySettings):
    """Everything the service reads from the environment."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    host: Annotated[
        str,
        setting(
            "address", "address to listen on; an address that is not loopback needs ADMIN_TOKEN for operators' calls"
        ),
    ] = "127.0.0.1"
    port: Annotated[int, setting("port", "port to listen on", ge=1, le=65535)] = 8000
    workers: Annotated[int, setting("processes", "worker processes that share the port", ge=1, le=256)] = 1
    admin_token: Annotated[
        SecretStr, setting("secret", "bearer token of operators' calls; empty: only loopback may make them")
    ] = _NONE
    metrics_need_key: Annotated[bool, setting("true/false", "whether callers of /metrics need a key too")] = False
    cors_origins: Annotated[
        tuple[str, ...],
        setting("origins", "pages that may rank and report events, separated by commas; empty: none"),
        BeforeValidator(origins),
    ] = ()
    model_threads: Annotated[int, setting("threads", "ONNX Runtime intra-op threads per worker", ge=1, le=256)] = 1
    max_candidates: Annotated[int, setting("candidates", "most candidates of one request", ge=1, le=100_000)] = 2000
    max_body_bytes: Annotated[int, setting("bytes", "largest request body", ge=1024, le=1 << 30)] = 2_097_152
    read_timeout_ms: Annotated[
        int, setting("ms", "longest time between a request's first byte and its last", ge=100, le=600_000)
    ] = 10_000
    write_timeout_ms: Annotated[
        int, setting("ms", "longest time that an answer waits because its reader does not read", ge=100, le=600_000)
    ] = 10_000
    max_connections: Annotated[
        int,
        setting(
            "connections",
            "most open connections per worker, at most 3/4 of the open files; idle ones are closed first",
            ge=1,
            le=1_000_000,
        ),
    ] = 8192
    max_inflight: Annotated[
        int,
        setting("requests", "most requests in work per worker; others are answered 503 at once", ge=1, le=100_000),
    ] = 64
    max_wait_ms: Annotated[
        int,
        setting(
            "ms",
            "longest queueing time of a request; one that would wait longer is answered 503",
            ge=1,
            le=600_000,
        ),
    ] = 250
    brownout: Annotated[
        bool, setting("true/false", "whether rankings that would wait too long are made cheaper before any is refused")
    ] = False
    score_chunk: Annotated[
        int,
        setting(
            "candidates", "candidates scored at once; between two chunks, other requests are scored", ge=1, le=100_000
        ),
    ] = 500
    default_timeout_ms: Annotated[int, setting("ms", "deadline without timeout_ms", ge=1, le=600_000)] = 1000
    fusion_file: Annotated[
        Path | None,
        setting(
            "YAML file",
            "fusion profiles and scenes, read at the start and at SIGHUP; empty: the sum of all probabilities",
        ),
    ] = None
    fusion_overrides: Annotated[bool, setting("true/false", "whether requests may override fusion weights")] = False
    runtime_dir: Annotated[
        Path | None,
        setting(
            "directory", "where the workers share metrics and status; empty: RUNTIME_DIRECTORY, TMPDIR or /dev/shm"
        ),
    ] = None
    load_timeout_ms: Annotated[
        int, setting("ms", "longest time for loading and checking a model version", ge=100, le=3_600_000)
    ] = 120_000
    rollout_poll_ms: Annotated[
        int,
        setting(
            "ms",
            "interval at which a worker reads the four documents of the registry and the state of Redis",
            ge=20,
            le=600_000,
        ),
    ] = 1000
    allow_degraded_ready: Annotated[bool, setting("true/false", "whether /readyz answers 200 without Redis")] = False
    drain_ms: Annotated[
        int,
        setting("ms", "time from SIGTERM, when /readyz begins to fail, until the listener closes", ge=0, le=600_000),
    ] = 500
    shutdown_timeout_ms: Annotated[
        int, setting("ms", "longest wait for requests in work when the service stops", ge=0, le=600_000)
    ] = 10_000
    exposure_log: Annotated[str, setting("address", LOG_HELP), BeforeValidator(known_log)] = ""
    exposure_spool: Annotated[Path | None, setting("directory", "files of a log at a URI until they are sent")] = None
    exposure_share: Annotated[
        float,
        setting("0 to 1", "share of the users whose rankings are logged; experiments are logged whole", ge=0, le=1),
    ] = 1.0
    exposure_cut: Annotated[bool, setting("true/false", "whether candidates beyond top_k are logged too")] = False
    exposure_roll_ms: Annotated[
        int, setting("ms", "age at which a file of the log is closed, for `compact` to take", ge=100, le=3_600_000)
    ] = 60_000
    exposure_spool_mb: Annotated[
        int, setting("MiB", "closed files of the log that wait to be taken; older ones go", ge=1, le=1 << 24)
    ] = 4096
    quality_file: Annotated[Path | None, setting("file", "report of `funnelrank quality`, for GET /quality")] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        setting("level", "lowest level of the log lines that are written"),
    ] = "info"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings from an environment. Raises SettingsError, which names every bad variable and shows no
        secret.
        """
        source = os.environ if environment is None else environment
        values = {
            name: source[variable_of(name)].strip()
            for name in cls.model_fields
            if source.get(variable_of(name), "").strip()
        }
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [
                f"{variable_of(str(e['loc'][0]))}: {e['msg']}{_shown(str(e['loc'][0]), values)}" for e in error.errors()
            ]
            raise SettingsError("; ".join(lines)) from None

    @property
    def log_folder(self) -> Path | None:
        """The folder in which the workers write the exposure log; None if there is no log, or no folder for it."""
        return log_folder(self.exposure_log, self.exposure_spool)

    @property
    def on_loopback(self) -> bool:
        return is_loopback(self.host)


def _shown(name: str, values: Mapping[str, str]) -> str:
    secret = Settings.model_fields[name].annotation is SecretStr or "@" in values.get(name, "")  # a password in a URI
    return "" if secret else f" (it is {values.get(name, '')!r})"


def variable_of(name: str) -> str:
    """`redis_url` -> `FUNNELRANK_REDIS_URL`."""
    return OTLP_ENDPOINT if name == "otlp_endpoint" else PREFIX + name.upper()


def runtime_parents(settings: Settings, environment: Mapping[str, str] | None = None) -> list[Path]:
    """Return folders that may hold the run-time folder, best first: the named one, a memory file system, the temporary
    folder.
    """
    source = os.environ if environment is None else environment
    # systemd sets RUNTIME_DIRECTORY, with several folders separated by colons.
    named = (
        str(settings.runtime_dir or ""),
        source.get("RUNTIME_DIRECTORY", "").partition(":")[0],
        source.get("TMPDIR"),
    )
    # In the first folder that permits it, the run-time folder is created; only its owner may read it.
    folders = (*named, "/dev/shm", tempfile.gettempdir())  # nosec B108
    return [Path(folder) for folder in folders if folder]


def unknown_variables(environment: Mapping[str, str] | None = None) -> list[str]:
    """Return variables that are no settings and have the prefix, or a name close to a setting's; likely misspelt."""
    source = os.environ if environment is None else environment
    known = [variable_of(n) for n in Settings.model_fields]
    unknown = [variable for variable in source if variable not in known]
    return sorted(v for v in unknown if v.startswith(PREFIX) or near_names(v, known, cutoff=_SAME_WORD))
