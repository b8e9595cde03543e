"""Owns what an operator can set: every `FUNNELRANK_*` variable, its default, its unit and its bounds, read in this one place."""

import ipaddress
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import PydanticCustomError

from service.redis_url import address_of

PREFIX = "FUNNELRANK_"


class SettingsError(ValueError):
    """One or more variables of the environment that cannot be used; the message names each."""


def _setting(unit: str, help_text: str, **bounds: Any) -> Any:
    """A field that knows its unit and what it is for, so that `serve --help` is written from the model itself."""
    return Field(description=help_text, json_schema_extra={"unit": unit}, **bounds)


def _known_address(url: SecretStr) -> SecretStr:
    try:
        address_of(url.get_secret_value())
    except ValueError as error:
        raise PydanticCustomError("redis_url", "{problem}", {"problem": str(error)}) from None
    return url


_REDIS = SecretStr("redis://127.0.0.1:6379/0")
_NONE = SecretStr("")


class Settings(BaseModel):
    """Everything the service reads from the environment."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    host: Annotated[
        str, _setting("address", "address to listen on; outside loopback operators' calls need ADMIN_TOKEN")
    ] = "127.0.0.1"
    port: Annotated[int, _setting("port", "port to listen on", ge=1, le=65535)] = 8000
    workers: Annotated[int, _setting("processes", "worker processes that share the port", ge=1, le=256)] = 1
    registry: Annotated[Path, _setting("directory", "folder with the published model bundles and rollout.json")] = Path(
        "registry"
    )
    trusted_keys: Annotated[
        Path | None,
        _setting(
            "PEM file",
            "public Ed25519 keys; bundles signed by none of them are refused; empty: signatures are not looked at",
        ),
    ] = None
    redis_url: Annotated[
        SecretStr,
        _setting(
            "URL",
            "Redis with the features; redis://, rediss:// or unix://, redis+cluster:// or rediss+cluster://host:port,host:port",
        ),
        AfterValidator(_known_address),
    ] = _REDIS
    redis_timeout_ms: Annotated[
        int, _setting("ms", "longest wait for Redis; after it a ranking is made on defaults", ge=1, le=60_000)
    ] = 100
    item_cache_mb: Annotated[
        int, _setting("MiB", "item rows kept in memory per worker and feature schema; 0: none", ge=0, le=1 << 20)
    ] = 64
    item_cache_ttl_ms: Annotated[
        int,
        _setting(
            "ms",
            "how long an item row is kept where Redis cannot tell of changes (before 6, or forbidden)",
            ge=1,
            le=3_600_000,
        ),
    ] = 1000
    admin_token: Annotated[
        SecretStr, _setting("secret", "bearer token of operators' calls; if empty, only loopback may make them")
    ] = _NONE
    model_threads: Annotated[int, _setting("threads", "ONNX Runtime intra-op threads per worker", ge=1, le=256)] = 1
    max_candidates: Annotated[int, _setting("candidates", "candidates in one request, at most", ge=1, le=100_000)] = (
        2000
    )
    max_body_bytes: Annotated[int, _setting("bytes", "request body, at most", ge=1024, le=1 << 30)] = 2_097_152
    read_timeout_ms: Annotated[
        int, _setting("ms", "longest that a request may take to arrive, from its first byte", ge=100, le=600_000)
    ] = 10_000
    write_timeout_ms: Annotated[
        int,
        _setting("ms", "longest that an answer may stand still because its reader does not read", ge=100, le=600_000),
    ] = 10_000
    max_connections: Annotated[
        int,
        _setting(
            "connections",
            "open connections per worker, at most; then idle ones are closed for new ones; open files limit it too",
            ge=1,
            le=1_000_000,
        ),
    ] = 8192
    max_inflight: Annotated[
        int, _setting("requests", "requests in work per worker; more are answered 503 at once", ge=1, le=100_000)
    ] = 64
    max_wait_ms: Annotated[
        int,
        _setting(
            "ms",
            "longest that requests in work may have to wait for one another; what would wait longer is answered 503",
            ge=1,
            le=600_000,
        ),
    ] = 250
    score_chunk: Annotated[
        int, _setting("candidates", "scored at once; a longer list lets other requests in between", ge=1, le=100_000)
    ] = 500
    default_timeout_ms: Annotated[
        int, _setting("ms", "deadline of a request that does not bring its own timeout_ms", ge=1, le=600_000)
    ] = 1000
    fusion_file: Annotated[
        Path | None, _setting("YAML file", "fusion profiles and scenes; empty: the plain sum of all probabilities")
    ] = None
    fusion_overrides: Annotated[bool, _setting("true/false", "whether a request may bring its own fusion weights")] = (
        False
    )
    runtime_dir: Annotated[
        Path | None,
        _setting(
            "directory",
            "where the workers share metrics and status; empty: RUNTIME_DIRECTORY, TMPDIR or /dev/shm",
        ),
    ] = None
    load_timeout_ms: Annotated[
        int, _setting("ms", "longest that loading and checking a model version may take", ge=100, le=3_600_000)
    ] = 120_000
    rollout_poll_ms: Annotated[
        int, _setting("ms", "how often a worker looks at rollout.json and at Redis' state", ge=20, le=600_000)
    ] = 1000
    allow_degraded_ready: Annotated[bool, _setting("true/false", "whether /readyz stays green while Redis is away")] = (
        False
    )
    drain_ms: Annotated[
        int, _setting("ms", "how long /readyz fails after SIGTERM before the listener closes", ge=0, le=600_000)
    ] = 500
    shutdown_timeout_ms: Annotated[
        int, _setting("ms", "longest wait for requests in work at the end", ge=0, le=600_000)
    ] = 10_000
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _setting("level", "least severe log line that is written")
    ] = "info"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Settings of the environment. Raises SettingsError that names every bad variable, and never shows a secret's value."""
        source = os.environ if environment is None else environment
        given = {
            name: source[variable_of(name)].strip()
            for name in cls.model_fields
            if source.get(variable_of(name), "").strip()
        }
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            lines = [
                f"{variable_of(str(e['loc'][0]))}: {e['msg']}{_shown(str(e['loc'][0]), given)}" for e in error.errors()
            ]
            raise SettingsError("; ".join(lines)) from None

    @property
    def on_loopback(self) -> bool:
        return is_loopback(self.host)


def _shown(name: str, given: Mapping[str, str]) -> str:
    secret = Settings.model_fields[name].annotation is SecretStr
    return "" if secret else f" (it is {given.get(name, '')!r})"


def variable_of(name: str) -> str:
    """`redis_url` -> `FUNNELRANK_REDIS_URL`."""
    return PREFIX + name.upper()


def runtime_parents(settings: Settings, environment: Mapping[str, str] | None = None) -> list[Path]:
    """Folders that may hold the run-time folder, best first: a folder that is named, memory, the temporary folder."""
    source = os.environ if environment is None else environment
    # systemd sets RUNTIME_DIRECTORY, with several folders separated by colons.
    named = (
        str(settings.runtime_dir or ""),
        source.get("RUNTIME_DIRECTORY", "").partition(":")[0],
        source.get("TMPDIR"),
    )
    return [Path(folder) for folder in (*named, "/dev/shm", tempfile.gettempdir()) if folder]


def unknown_variables(environment: Mapping[str, str] | None = None) -> list[str]:
    """Variables with our prefix that no setting reads: most likely misspelt."""
    source = os.environ if environment is None else environment
    known = {variable_of(n) for n in Settings.model_fields}
    return sorted(v for v in source if v.startswith(PREFIX) and v not in known)


def described() -> str:
    """One line per setting for `--help`: variable, default, unit, meaning."""
    lines = []
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        unit = extra.get("unit") if isinstance(extra, dict) else ""
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        shown = str(default).lower() if isinstance(default, bool) else default
        lines.append(f"  {variable_of(name):<33}{'' if shown is None else shown!s:<26}[{unit}] {field.description}")
    return "\n".join(lines)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
