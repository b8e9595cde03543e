"""Records which registries loaded a schema into this Redis, so that none removes another's rows."""

from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from redis import Redis

from features.files.writing import write_whole
from service.addresses.registry_address import uri_of
from service.store.redis.keys import claims_key

_ID_FILE = ".registry-id"


class SchemaInUse(Exception):  # noqa: N818 - a refusal, not a mistake
    """Other registries have loaded this schema too; the message names them."""


def registry_id(registry: Path) -> str:
    """Return an id of a registry that does not depend on its path; the path, if no file can be written in the
    registry.
    """
    uri = uri_of(registry)
    if uri is not None:  # every host has a copy of its own
        return sha256(uri.encode()).hexdigest()[:32]
    file = registry / _ID_FILE
    try:
        if not file.exists():
            write_whole(file, uuid4().hex.encode())
        return file.read_text().strip()
    except (OSError, ValueError):
        return str(registry.resolve())


def claim(redis: "Redis", fingerprint: str, registry: Path) -> None:
    """Record that this registry has loaded the schema."""
    redis.hset(claims_key(fingerprint), registry_id(registry), uri_of(registry) or str(registry.resolve()))


def release(redis: "Redis", fingerprint: str, registry: Path) -> None:
    """Remove this registry's claim. Raises SchemaInUse if other registries have a claim to the rows."""
    key = claims_key(fingerprint)
    redis.hdel(key, registry_id(registry))
    claims: Any = redis.hvals(key)
    if claims:
        places = ", ".join(sorted(claim.decode(errors="replace") for claim in claims))
        raise SchemaInUse(
            f"the rows of schema {fingerprint} stay: they were loaded from the registry {places} too; "
            f"forget the schema there (where that registry is no more, delete the hash {key})"
        )
