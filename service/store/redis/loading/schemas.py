"""Writes the list of the feature schemas that a Redis has rows of: the hash `fr:schemas`, fingerprint -> JSON.

The JSON has the whole schema and `loaded_at`. A schema is listed while it is loaded, so that live writes go to it as
well, and removed from the list when it is retired. `loaded_at` is null until its first load is complete; until then no
model ranks from it.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from time import sleep
from typing import Any

import orjson
from redis import Redis

from features import FeatureSchema
from service.store.redis.clients import client
from service.store.redis.keys import SCHEMAS, every_key
from service.store.redis.loading.claims import release
from service.store.redis.loading.progress import progress
from service.store.schemas import is_loaded, schema_of

FORGET_KEYS_PER_SECOND = 20_000
_SCAN_COUNT = 1000
_FINGERPRINT = re.compile("[0-9a-f]{16}")
_IN_WORK_SECONDS = 1.0  # a write that read the list before a schema left it is done by then


def announce_schema(redis: "Redis", schema: FeatureSchema) -> None:
    """List a schema, so that live writes go to it. A schema that is already listed does not change."""
    redis.hsetnx(SCHEMAS, schema.fingerprint, _document(schema, None))


def register_schema(redis: "Redis", schema: FeatureSchema) -> None:
    """Record that a schema is loaded. From then on a model whose schema is not listed is refused."""
    loaded_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    redis.hset(SCHEMAS, schema.fingerprint, _document(schema, loaded_at))


def longest(redis: "Redis", schema: FeatureSchema) -> FeatureSchema:
    """Return the schema, or the listed schema of the same fingerprint if that one stores longer behaviour sequences."""
    document: Any = redis.hget(SCHEMAS, schema.fingerprint)
    if document is None or schema.behaviour is None:
        return schema
    try:
        other = schema_of(document)
    except ValueError:  # whoever reads the list says so; this load writes the entry anew
        return schema
    keeps_more = other.behaviour is not None and other.behaviour.max_length > schema.behaviour.max_length
    return other if keeps_more else schema


def listed(redis_url: str) -> str:
    """Describe the list in words."""
    with client(redis_url, 10) as redis:
        entries: Any = redis.hgetall(SCHEMAS)
    described = (
        f"{name.decode(errors='replace')} ({'loaded' if is_loaded(document) else 'being loaded'})"
        for name, document in sorted(entries.items())
    )
    return ", ".join(described) or "none"


def forget_schema(redis_url: str, fingerprint: str, registry: Path) -> int:
    """Retire a schema for a registry: unlist it, then remove its rows at a limited pace. Returns the number of keys.

    Raises KeyError if there is nothing to remove, and SchemaInUse if another registry has loaded the schema too.
    """
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise KeyError(fingerprint)
    with client(redis_url, 60) as redis, progress(f"forgetting {fingerprint}", "keys") as advance:
        release(redis, fingerprint, registry)
        was_listed: Any = redis.hdel(SCHEMAS, fingerprint)
        removed = _remove(redis, every_key(fingerprint), advance)
        if not was_listed and not removed:
            raise KeyError(fingerprint)

        # Writers that had read the list before may still write: look again until nothing more is left.
        more = was_listed
        while more:
            sleep(_IN_WORK_SECONDS)
            more = _remove(redis, every_key(fingerprint), advance)
            removed += more
    return removed


def _remove(redis: "Redis", pattern: str, advance: Callable[[int], None]) -> int:
    """Unlink the keys of a pattern and return their number. Commands are short, with pauses in between."""
    removed = 0
    keys = redis.scan_iter(match=pattern, count=_SCAN_COUNT)
    while batch := list(islice(keys, _SCAN_COUNT)):
        with redis.pipeline(transaction=False) as pipeline:
            for key in batch:
                pipeline.unlink(key)
            removed += sum(pipeline.execute())
        advance(len(batch))
        sleep(len(batch) / FORGET_KEYS_PER_SECOND)
    return removed


def _document(schema: FeatureSchema, loaded_at: str | None) -> bytes:
    return orjson.dumps({"schema": schema.model_dump(mode="json"), "loaded_at": loaded_at})
