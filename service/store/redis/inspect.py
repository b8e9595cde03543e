"""Shows the rows of one user or item in Redis, decoded. Rows contain hashes of values, so hashes are shown."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
from redis import Redis

from features import MISSING_KEY, FeatureSchema, RowLayout
from features.layouts import EVENT_KEY_BYTES, Entity, Layouts, rows_of
from service.store.redis.clients import client
from service.store.redis.keys import SCHEMAS, behaviours_key, item_key, user_key


def shown(redis_url: str, entity: Entity, entity_id: str) -> tuple[bool, str]:
    """Return whether Redis has any rows, and a text for people with the rows of every loaded schema."""
    with client(redis_url, 10) as redis:
        schemas: Any = redis.hgetall(SCHEMAS)
        if not schemas:
            return False, f"this Redis has not been loaded: the hash {SCHEMAS} is empty"
        exists = False
        parts = []
        for document in schemas.values():
            stored = orjson.loads(document)
            layouts = Layouts.of(FeatureSchema.model_validate(stored["schema"]))
            lines = _entity(redis, layouts, entity, entity_id)
            exists = exists or bool(lines)
            title = f"schema {layouts.fingerprint}, loaded at {stored['loaded_at'] or '- (its load is not through)'}"
            parts.append("\n".join([title, *(lines or [f"  nothing for {entity} {entity_id}"])]))
    return exists, "\n\n".join(parts)


def _entity(redis: "Redis", layouts: Layouts, entity: Entity, entity_id: str) -> list[str]:
    key = (user_key if entity == "user" else item_key)(layouts.fingerprint, entity_id)
    row: Any = redis.get(key)
    lines = [] if row is None else [f"  {key}", *_row(layouts.layout(entity), row)]
    if entity == "user" and layouts.behaviour is not None:
        lines += _behaviours(redis, layouts, entity_id)
    return lines


def _row(layout: RowLayout, packed: bytes) -> list[str]:
    if len(packed) != layout.dtype.itemsize:
        return [f"    corrupt: {len(packed)} bytes, the schema's rows have {layout.dtype.itemsize}"]
    return [f"    {name:<24}{value}" for name, value in decoded(layout, rows_of(layout, packed, 1)[0]).items()]


def decoded(layout: RowLayout, row: np.void) -> dict[str, str]:
    """Map each feature name to its keys in hexadecimal, its number, or `missing`."""
    values = {}
    for name, columns in layout.key_columns.items():
        keys = [f"{int(k) & (2**64 - 1):016x}" for k in row["keys"][columns] if k != MISSING_KEY]
        values[name] = " ".join(keys) or "missing"
    for name, column in layout.numeric_columns.items():
        number = float(row["numerics"][column])
        values[name] = "missing" if np.isnan(number) else f"{number:g}"
    return values


def _behaviours(redis: "Redis", layouts: Layouts, user_id: str) -> list[str]:
    assert layouts.behaviour is not None
    layout = layouts.behaviour
    key = behaviours_key(layouts.fingerprint, user_id)
    members: Any = redis.zrevrange(key, 0, -1, withscores=True)
    if not members:
        return []
    ranked = min(len(members), layouts.max_behaviours)
    older = f"; {len(members) - ranked} older ones are kept for replays" if len(members) > ranked else ""
    lines = [f"  {key}: {ranked} behaviours, newest first{older}"]
    for member, score in members:
        at = datetime.fromtimestamp(score / 1000, UTC).isoformat(timespec="milliseconds")
        packed = member[EVENT_KEY_BYTES:]
        if len(packed) != layout.dtype.itemsize:
            lines.append(f"    {at}  corrupt: {len(packed)} bytes, the schema's rows have {layout.dtype.itemsize}")
            continue
        row = np.frombuffer(packed, dtype=layout.dtype)[0]
        action, scene = (f"{int(k) & (2**64 - 1):016x}" for k in row["keys"][-2:])
        features = "  ".join(f"{n}={v}" for n, v in decoded(layout, row).items())
        lines.append(f"    {at}  action={action}  scene={scene}  {features}")
    return lines
