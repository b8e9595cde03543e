"""Owns what a ranking reads from Redis: the user's row, the behaviour sequence and the item rows, in one round trip."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import orjson

from service.layouts import Layouts
from service.store.keys import SCHEMAS, behaviours_key, item_prefix, user_key
from service.store.wire import StoreDown, Wire, packed

log = logging.getLogger("funnelrank.store")


@dataclass(slots=True)
class Stored:
    """What Redis holds for one request. A row that is absent is None; one that does not fit the schema counts as absent.

    `behaviours` are the sorted set's members, newest first; `items` has one entry per candidate.
    """

    user: bytes | None
    behaviours: list[bytes]
    items: list[bytes | None]
    corrupt: dict[str, int]


EVENT_KEY_BYTES = 8


class Reader:
    """The reading side of the store for one worker."""

    def __init__(self, url: str, timeout_ms: int) -> None:
        self._wire = Wire(url)
        self.timeout = timeout_ms / 1000
        self._down = False
        self._told_corrupt: set[str] = set()

    async def fetch(self, layouts: Layouts, user_id: str, item_ids: Sequence[str], timeout: float, before: int | None = None) -> Stored:
        """All rows of one request; of the behaviours those older than `before` (milliseconds), all where it is None.

        Raises StoreDown; waits no longer than `timeout` seconds or the store's own limit.
        """
        fingerprint, prefix = layouts.fingerprint, item_prefix(layouts.fingerprint)
        commands = [packed("GET", user_key(fingerprint, user_id))]
        commands.append(packed("MGET", *map("".join, zip(repeat(prefix), item_ids))))
        if layouts.behaviour is not None:
            commands.append(newest(behaviours_key(fingerprint, user_id), layouts.max_behaviours, before))
        try:
            replies = await self._wire.ask(b"".join(commands), len(commands), min(timeout, self.timeout))
            for reply in replies:
                if isinstance(reply, Exception):
                    raise StoreDown(f"Redis refuses to read: {reply}")
        except StoreDown as error:
            self._note_down(error)
            raise
        self._note_up()
        stored = checked(layouts, replies[0], replies[2] if layouts.behaviour is not None else [], replies[1])
        if stored.corrupt:
            self._note_corrupt(layouts.fingerprint, stored.corrupt)
        return stored

    # The log says once that something began; how often it happens, the metrics say.

    def _note_down(self, error: StoreDown) -> None:
        if not self._down:
            self._down = True
            log.warning("rankings are made without the store: %s", error)

    def _note_up(self) -> None:
        if self._down:
            self._down = False
            log.info("the store answers again")

    def _note_corrupt(self, fingerprint: str, corrupt: dict[str, int]) -> None:
        if told := sorted(corrupt.keys() - self._told_corrupt):
            self._told_corrupt.update(told)
            log.warning("rows in Redis that do not fit schema %s are taken as missing: %s", fingerprint, ", ".join(told))

    async def item_rows(self, layouts: Layouts, item_ids: Sequence[str]) -> list[bytes]:
        """The packed rows of items, defaults for those without one. Raises StoreDown."""
        if not item_ids:
            return []
        prefix = item_prefix(layouts.fingerprint)
        replies = await self._wire.ask(packed("MGET", *(prefix + i for i in item_ids)), 1, self.timeout)
        if isinstance(replies[0], Exception):
            raise StoreDown(f"Redis refuses to read: {replies[0]}")
        size = layouts.item.dtype.itemsize
        return [r if r is not None and len(r) == size else layouts.unknown_row("item", i) for i, r in zip(item_ids, replies[0], strict=True)]

    async def schemas(self) -> dict[str, str]:
        """What this Redis has been loaded with: fingerprint -> JSON. Raises StoreDown."""
        replies = await self._wire.ask(packed("HGETALL", SCHEMAS), 1, max(self.timeout, 1.0))
        if isinstance(replies[0], Exception):
            raise StoreDown(f"Redis refuses to read: {replies[0]}")
        flat = replies[0]
        return {k.decode(): v.decode() for k, v in zip(flat[::2], flat[1::2], strict=True)}

    def close(self) -> None:
        self._wire.close()


def newest(key: str, count: int, before: int | None) -> bytes:
    """The command for a user's newest behaviours, of those older than `before` if it is given."""
    if before is None:
        return packed("ZREVRANGE", key, "0", str(count - 1))
    return packed("ZREVRANGEBYSCORE", key, f"({before}", "-inf", "LIMIT", "0", str(count))


def checked(layouts: Layouts, user: bytes | None, behaviours: list[bytes], items: list[bytes | None]) -> Stored:
    """Rows of another length than the schema's are taken as absent, and counted."""
    corrupt: dict[str, int] = {}
    if user is not None and len(user) != layouts.user.dtype.itemsize:
        user, corrupt["user"] = None, 1
    if layouts.behaviour is not None and behaviours:
        size = layouts.behaviour.dtype.itemsize + EVENT_KEY_BYTES
        if set(map(len, behaviours)) != {size}:
            fitting = [b for b in behaviours if len(b) == size]
            corrupt["behaviour"] = len(behaviours) - len(fitting)
            behaviours = fitting
    size = layouts.item.dtype.itemsize
    present = items if None not in items else [r for r in items if r is not None]
    if not set(map(len, present)) <= {size}:  # type: ignore[arg-type]
        corrupt["item"] = sum(len(r) != size for r in present if r is not None)
        items = [r if r is not None and len(r) == size else None for r in items]
    return Stored(user, behaviours, items, corrupt)


@dataclass(frozen=True)
class SchemaCheck:
    """Whether Redis holds rows of the wanted schema; `problem` is None where ranking makes sense."""

    reachable: bool
    loaded: frozenset[str]
    problem: str | None


async def check_schema(reader: Reader, layouts: Layouts) -> SchemaCheck:
    """A Redis that was loaded with other schemas and not with this one must not be ranked from: all would be defaults."""
    try:
        schemas = await reader.schemas()
    except StoreDown:
        return SchemaCheck(reachable=False, loaded=frozenset(), problem=None)
    except UnicodeDecodeError as error:
        return SchemaCheck(reachable=True, loaded=frozenset(), problem=f"the hash {SCHEMAS} cannot be read: {error}")
    loaded = frozenset(schemas)
    if loaded and layouts.fingerprint not in loaded:
        known = ", ".join(f"{f} ({_described(schemas[f])})" for f in sorted(loaded))
        wanted = f"{layouts.fingerprint} ({len(layouts.schema.user)} user and {len(layouts.schema.item)} item features)"
        detail = f"Redis was loaded with {known}; the model wants {wanted}; run: python -m service load DIR --registry REGISTRY"
        return SchemaCheck(reachable=True, loaded=loaded, problem=detail)
    return SchemaCheck(reachable=True, loaded=loaded, problem=None)


def _described(document: str) -> str:
    try:
        schema = orjson.loads(document)["schema"]
        return f"{len(schema['user'])} user and {len(schema['item'])} item features"
    except (ValueError, KeyError, TypeError):
        return "unreadable description"
