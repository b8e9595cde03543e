"""Owns the list of the feature schemas that a Redis holds rows of: the hash `fr:schemas`, fingerprint -> JSON with the whole schema.

A schema comes onto the list while it is loaded, so that live writes go to it as well, and leaves it when it is retired. `loaded_at` is null
until its first load is through; until then no model ranks from it.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from time import sleep
from typing import Any

import orjson
from redis import Redis

from features import FeatureSchema
from service.store.redis.clients import client
from service.store.redis.keys import SCHEMAS, every_key
from service.store.redis.progress import progress
from service.store.schemas import is_loaded, schema_of

FORGET_KEYS_PER_SECOND = 20_000
_SCAN_COUNT = 1000
_FINGERPRINT = re.compile("[0-9a-f]{16}")
_IN_WORK_SECONDS = 1.0  # a write that had read the list before a schema left it is done by then


def announce_schema(redis: "Redis", schema: FeatureSchema) -> None:
    """Live writes go to this schema from now on; a schema that is on the list already stays as it is."""
    redis.hsetnx(SCHEMAS, schema.fingerprint, _document(schema, None))


def register_schema(redis: "Redis", schema: FeatureSchema) -> None:
    """Note that rows of this schema are there; from then on a model of a schema that is not on the list is refused."""
    redis.hset(
        SCHEMAS,
        schema.fingerprint,
        _document(schema, datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")),
    )


def longest(redis: "Redis", schema: FeatureSchema) -> FeatureSchema:
    """The schema, or the one of its fingerprint on the list where that keeps more behaviours: both read the same rows."""
    document: Any = redis.hget(SCHEMAS, schema.fingerprint)
    if document is None or schema.behaviour is None:
        return schema
    try:
        listed = schema_of(document)
    except ValueError:  # whoever reads the list says so; this load writes the entry anew
        return schema
    return listed if listed.behaviour and listed.behaviour.max_length > schema.behaviour.max_length else schema


def listed(redis_url: str) -> str:
    """The list in words."""
    with client(redis_url, 10) as redis:
        found: Any = redis.hgetall(SCHEMAS)
    entries = (
        f"{name.decode()} ({'loaded' if is_loaded(document) else 'being loaded'})"
        for name, document in sorted(found.items())
    )
    return ", ".join(entries) or "none"


def forget_schema(redis_url: str, fingerprint: str) -> int:
    """Retire a schema: off the list, then every key of its rows goes, at a bounded pace; how many keys. Raises KeyError where it is not there."""
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise KeyError(fingerprint)
    with client(redis_url, 60) as redis, progress(f"forgetting {fingerprint}", "keys") as advance:
        more: Any = redis.hdel(SCHEMAS, fingerprint)
        gone = _remove(redis, every_key(fingerprint), advance)
        if not more and not gone:
            raise KeyError(fingerprint)
        while more:
            sleep(_IN_WORK_SECONDS)
            more = _remove(redis, every_key(fingerprint), advance)
            gone += more
    return gone


def _remove(redis: "Redis", pattern: str, advance: Callable[[int], None]) -> int:
    gone = 0
    keys = redis.scan_iter(match=pattern, count=_SCAN_COUNT)
    while batch := list(islice(keys, _SCAN_COUNT)):
        with redis.pipeline(transaction=False) as pipeline:
            for key in batch:
                pipeline.unlink(key)
            gone += sum(pipeline.execute())
        advance(len(batch))
        sleep(len(batch) / FORGET_KEYS_PER_SECOND)
    return gone


def _document(schema: FeatureSchema, loaded_at: str | None) -> bytes:
    return orjson.dumps({"schema": schema.model_dump(mode="json"), "loaded_at": loaded_at})
