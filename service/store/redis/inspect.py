"""Reads and shows what Redis has for one user or item. Rows contain hashes of values, so hashes are shown."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from redis import Redis
from redis.exceptions import ResponseError

from features import RowLayout
from features.counters import ENTRY, numbers_of
from features.layouts import EVENT_KEY_BYTES, Entity, Layouts, rows_of
from service.clock import now_ms
from service.store.base import StoreDown
from service.store.entity_rows import DecodedValue, PackedEntity, decoded_values, time_of
from service.store.redis.clients import REDIS_ERRORS, client
from service.store.redis.keys import (
    SCHEMAS,
    behaviours_key,
    item_counters_key,
    item_key,
    user_counters_key,
    user_key,
)
from service.store.schemas import loaded_at_of, schema_of

log = logging.getLogger("funnelrank.store")
_NUMBERS_SHOWN = 8  # of a vector
_READ_SECONDS = 2.0
_SHOW_SECONDS = 10.0


def packed_entities(
    redis_url: str, entity: Entity, entity_id: str, in_use: Sequence[Layouts] = ()
) -> list[PackedEntity]:
    """Return what Redis has for a user or an item: one entry per schema that it lists or that is `in_use`.

    Raises StoreDown.
    """
    try:
        with client(redis_url, _READ_SECONDS) as redis:
            listed: Any = redis.hgetall(SCHEMAS)
            readable = _readable(listed)
            packed = [_packed(redis, layouts, at, entity, entity_id) for layouts, at in readable]
            fingerprints = {of_schema.layouts.fingerprint for of_schema in packed}
            # Live writes go to the schemas in use even before the first load has listed them.
            for layouts in in_use:
                if layouts.fingerprint not in fingerprints:
                    fingerprints.add(layouts.fingerprint)
                    packed.append(_packed(redis, layouts, None, entity, entity_id))
            return packed
    except (*REDIS_ERRORS, ValueError) as error:
        raise StoreDown(str(error)) from error


def shown(redis_url: str, entity: Entity, entity_id: str) -> tuple[bool, str]:
    """Return whether Redis has any rows, and a text for people with the rows of every loaded schema."""
    with client(redis_url, _SHOW_SECONDS) as redis:
        schemas: Any = redis.hgetall(SCHEMAS)
        if not schemas:
            return False, f"this Redis has not been loaded: the hash {SCHEMAS} is empty"
        packed = [_packed(redis, layouts, at, entity, entity_id) for layouts, at in _readable(schemas)]
    parts = []
    for of_schema in packed:
        lines = _entity(of_schema, entity, entity_id)
        title = (
            f"schema {of_schema.layouts.fingerprint}, loaded at {of_schema.loaded_at or '- (its load is not through)'}"
        )
        parts.append("\n".join([title, *(lines or [f"  nothing for {entity} {entity_id}"])]))
    return any(of_schema.exists or of_schema.cells for of_schema in packed), "\n\n".join(parts)


def _readable(listed: Mapping[bytes, bytes]) -> list[tuple[Layouts, str | None]]:
    """The listed schemas with the times of their loads. Entries that cannot be read are logged, and hide no other."""
    readable = []
    for fingerprint, document in listed.items():
        try:
            readable.append((Layouts.of(schema_of(document)), loaded_at_of(document)))
        except ValueError as error:
            reason = " ".join(str(error).split())[:200]
            log.warning("the entry %s of %s cannot be read: %s", fingerprint.decode(errors="replace"), SCHEMAS, reason)
    return readable


def _of_type(read: Callable[[], Any], otherwise: object) -> Any:
    """The answer of a command; `otherwise` if the key has a value of another type, which no other key has to suffer
    from.
    """
    try:
        return read()
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return otherwise


def _packed(redis: "Redis", layouts: Layouts, loaded_at: str | None, entity: Entity, entity_id: str) -> PackedEntity:
    key = (user_key if entity == "user" else item_key)(layouts.fingerprint, entity_id)
    row: Any = _of_type(lambda: redis.get(key), b"")
    row_expires = _expires_ms(redis, key)
    cells = _cells(redis, layouts, entity, entity_id)
    if entity != "user" or layouts.behaviour is None:
        return PackedEntity(layouts, loaded_at, row, row_expires, cells=cells)
    sequence = behaviours_key(layouts.fingerprint, entity_id)
    members: Any = _of_type(lambda: redis.zrevrange(sequence, 0, -1, withscores=True), [(b"", -1)])
    behaviours = [(time_of(score), member) for member, score in members]
    return PackedEntity(layouts, loaded_at, row, row_expires, behaviours, _expires_ms(redis, sequence), cells)


def _cells(redis: "Redis", layouts: Layouts, entity: Entity, entity_id: str) -> dict[str, bytes]:
    """The cells of the counters of a user or an item by name."""
    if entity not in {layout.by for layout in layouts.counters}:
        return {}
    if entity == "item":
        cell: Any = _of_type(lambda: redis.get(item_counters_key(layouts.fingerprint, entity_id)), b"")
        return {} if cell is None else {"": cell}
    stored: Any = _of_type(lambda: redis.hgetall(user_counters_key(layouts.fingerprint, entity_id)), {b"": b""})
    return {name.decode(errors="replace"): cell for name, cell in stored.items()}


def _expires_ms(redis: "Redis", key: str) -> int | None:
    milliseconds: Any = redis.pttl(key)
    return milliseconds if milliseconds >= 0 else None


def _entity(packed: PackedEntity, entity: Entity, entity_id: str) -> list[str]:
    layouts = packed.layouts
    lines = []
    if packed.row is not None:
        key = (user_key if entity == "user" else item_key)(layouts.fingerprint, entity_id)
        lines = [f"  {key}", *_row(layouts.layout(entity), packed.row)]
    if packed.behaviours:
        lines += _behaviours(packed, entity_id)
    if packed.cells:
        key = (user_counters_key if entity == "user" else item_counters_key)(layouts.fingerprint, entity_id)
        lines += [f"  {key}: counters now", *_counters(packed, entity)]
    return lines


def _counters(packed: PackedEntity, entity: Entity) -> Iterator[str]:
    """The numbers of the stored cells at this moment; in brackets the number of the cell where there are several."""
    for place, layout in enumerate(packed.layouts.counters):
        if layout.by != entity:
            continue
        for name, cell in sorted(packed.cells.items()):
            kind, _, number = name.partition(":")
            if kind not in ("", str(place)):
                continue
            if len(cell) != layout.entries * ENTRY.itemsize:
                yield f"    corrupt: {len(cell)} bytes, the schema's cells have {layout.entries * ENTRY.itemsize}"
                continue
            numbers = numbers_of(layout, np.frombuffer(cell, ENTRY).reshape(1, layout.entries), now_ms())[0]
            for term, value in zip(layout.terms, numbers.tolist(), strict=True):
                title = term.counter.name + (f"[{number}]" if number else "")
                yield f"    {title:<24}{'missing' if np.isnan(value) else f'{value:g}'}"


def _row(layout: RowLayout, packed: bytes) -> list[str]:
    if len(packed) != layout.dtype.itemsize:
        return [f"    corrupt: {len(packed)} bytes, the schema's rows have {layout.dtype.itemsize}"]
    return [f"    {name:<24}{value}" for name, value in decoded(layout, rows_of(layout, packed, 1)[0]).items()]


def decoded(layout: RowLayout, row: np.void) -> Mapping[str, str]:
    """Map each feature name to its keys in hexadecimal, its number, its vector, or `missing`."""
    return {name: _text(value) for name, value in decoded_values(layout, row).items()}


def _text(value: DecodedValue) -> str:
    if value.number is not None:
        return f"{value.number:g}"
    if value.vector is not None:
        shown = " ".join(f"{number:g}" for number in value.vector[:_NUMBERS_SHOWN])
        return f"{len(value.vector)} numbers: {shown}" + (" ..." if len(value.vector) > _NUMBERS_SHOWN else "")
    return " ".join(map(hexadecimal, value.keys)) or "missing"


def hexadecimal(key: int) -> str:
    """A key as 16 hexadecimal digits."""
    return f"{key & (2**64 - 1):016x}"


def _behaviours(packed: PackedEntity, user_id: str) -> list[str]:
    layouts = packed.layouts
    layout = layouts.behaviour
    assert layout is not None
    key = behaviours_key(layouts.fingerprint, user_id)
    members = packed.behaviours
    ranked = min(len(members), layouts.max_behaviours)
    older = f"; {len(members) - ranked} older ones are kept for replays" if len(members) > ranked else ""
    lines = [f"  {key}: {ranked} behaviours, newest first{older}"]
    for time_ms, member in members:
        at = "corrupt: its time is no date"
        if time_ms is not None:
            at = datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
        content = member[EVENT_KEY_BYTES:]
        if len(content) != layout.dtype.itemsize:
            lines.append(f"    {at}  corrupt: {len(content)} bytes, the schema's rows have {layout.dtype.itemsize}")
            continue
        row = np.frombuffer(content, dtype=layout.dtype)[0]
        action, scene = (hexadecimal(int(key)) for key in row["keys"][-2:])
        features = "  ".join(f"{n}={v}" for n, v in decoded(layout, row).items())
        lines.append(f"    {at}  action={action}  scene={scene}  {features}")
    return lines
