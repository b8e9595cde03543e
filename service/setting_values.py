"""Describes and checks the value of one setting."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, ValidationInfo
from pydantic_core import PydanticCustomError

from service.addresses.log_address import is_uri, log_address
from service.addresses.registry_address import registry_folder
from service.addresses.store_url import check_url

# As browsers send it: in lower case, without a path. A star is refused, because any page could then use the service.
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")

_REDIS = SecretStr("redis://127.0.0.1:6379/0")
_TEN_YEARS_S = 315_360_000
_LEAST_REPLICA_LAG_MS = 100

_ENDPOINT = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")

LOG_HELP: Final = (
    "log of rankings, impressions, events: a folder or s3://, gs://, az://, file://, kafka://; empty: none"
)


def setting(unit: str, help_text: str, **bounds: Any) -> Any:
    """A field with its unit and description, which `serve --help` prints."""
    return Field(description=help_text, json_schema_extra={"unit": unit}, **bounds)


def known_address(url: SecretStr) -> SecretStr:
    try:
        check_url(url.get_secret_value())
    except ValueError as error:
        raise PydanticCustomError("redis_url", "{problem}", {"problem": str(error)}) from None
    return url


def known_log(value: object) -> object:
    """The address of the exposure log: a folder, or the URI of a target."""
    text = str(value or "")
    if is_uri(text):
        try:
            log_address(text)
        except ValueError as error:
            raise PydanticCustomError("log_target", "{problem}", {"problem": str(error)}) from None
    return text


def _otlp_endpoint(value: str) -> str:
    """The address of an OTLP endpoint over HTTP; empty: none."""
    if value and not _ENDPOINT.fullmatch(value):
        raise PydanticCustomError(
            "otlp_endpoint", "an OTLP endpoint over HTTP is needed, as http://collector:4318; grpc is not supported"
        )
    return value


def origins(value: object) -> object:
    """The origins of a list that is separated by commas. Anything but scheme, name and port is refused."""
    if not isinstance(value, str):
        return value
    listed = tuple(origin.strip() for origin in value.split(",") if origin.strip())
    for origin in listed:
        if not _ORIGIN.fullmatch(origin):
            raise PydanticCustomError(
                "origin",
                "{origin} is no origin; write https://shop.example or http://localhost:3000",
                {"origin": origin},
            )
    return listed


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _registry(value: object, info: ValidationInfo) -> object:
    """The folder of a registry; that of its copy if it is in an object store."""
    try:
        return registry_folder(str(value), info.data.get("registry_cache", Path()))
    except ValueError as error:
        raise PydanticCustomError("registry", "{problem}", {"problem": str(error)}) from None


def _replica_lag(value: int) -> int:
    """A bound that the watching of replicas can keep."""
    if 0 < value < _LEAST_REPLICA_LAG_MS:
        raise PydanticCustomError(
            "redis_replica_lag_ms", "0 or at least {least} is needed", {"least": _LEAST_REPLICA_LAG_MS}
        )
    return value


class RegistrySettings(BaseModel):
    """Where the registry is, and where a host keeps the copy of one in an object store."""

    registry_cache: Annotated[
        Path, setting("directory", "copies of registries in object stores, a folder for each URI")
    ] = Path("~/.cache/funnelrank")
    registry_cache_mb: Annotated[
        int,
        setting("MiB", "bundles in such a copy; those neither live nor in the history go beyond it", ge=1, le=1 << 30),
    ] = 10_240
    registry: Annotated[
        Path,
        setting(
            "address",
            "published bundles, rollout.json, fusion.json, rules.json, callers.json: a folder or s3://, gs://, az://",
        ),
        BeforeValidator(_registry),
    ] = Path("registry")
    trusted_keys: Annotated[
        Path | None,
        setting("PEM file", "public Ed25519 keys; a bundle must be signed by one; empty: signatures are not checked"),
    ] = None
    max_versions: Annotated[int, setting("versions", "most versions that rollout.json may name", ge=3, le=100)] = 12


class StoreSettings(BaseModel):
    """Where the rows are, how long a read may take, and what is kept of it in memory."""

    redis_url: Annotated[
        SecretStr,
        setting(
            "URL",
            "Redis with the features; redis://, rediss:// or unix://, "
            "redis+cluster:// or rediss+cluster://host:port,host:port",
        ),
        AfterValidator(known_address),
    ] = _REDIS
    redis_timeout_ms: Annotated[
        int, setting("ms", "longest wait for Redis; after it, a ranking uses default values", ge=1, le=60_000)
    ] = 100
    redis_replica_lag_ms: Annotated[
        int,
        setting(
            "ms",
            "rankings read from replicas of Redis that lack no write older than this, 100 or more; 0: from primaries",
            ge=0,
            le=600_000,
        ),
        AfterValidator(_replica_lag),
    ] = 0
    item_cache_mb: Annotated[
        int,
        setting("MiB", "memory for cached item rows, per worker and feature schema; 0: no cache", ge=0, le=1 << 20),
    ] = 64
    item_cache_ttl_ms: Annotated[
        int,
        setting(
            "ms",
            "lifetime of items' cached counters, and of rows where Redis cannot announce changes (before 6, or ACL)",
            ge=1,
            le=3_600_000,
        ),
    ] = 1000
    user_ttl_s: Annotated[
        int,
        setting("s", "silence (no load, no event) after which a user's row expires; 0: never", ge=0, le=_TEN_YEARS_S),
    ] = 0
    behaviour_ttl_s: Annotated[
        int, setting("s", "silence after which a user's behaviours expire; 0: never", ge=0, le=_TEN_YEARS_S)
    ] = 0


class TraceSettings(BaseModel):
    """Where the traces go, and which are kept."""

    otlp_endpoint: Annotated[
        str,
        setting("URL", "OTLP endpoint (HTTP) that gets traces; needs the extra `traces`; empty: no traces"),
        AfterValidator(_otlp_endpoint),
    ] = ""
    trace_share: Annotated[
        float, setting("0 to 1", "share of the requests without a traceparent whose traces are kept", ge=0, le=1)
    ] = 0.01
    trace_slow_ms: Annotated[
        int, setting("ms", "duration from which on a request's trace is always kept", ge=1, le=600_000)
    ] = 500
