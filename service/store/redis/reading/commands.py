"""Packs the commands that a ranking's read sends."""

from collections.abc import Sequence
from itertools import repeat
from time import time_ns

from features.layouts import Layouts
from service.store.redis.keys import behaviours_key, shown_items_key, user_key
from service.store.redis.reading.wire import packed

# A longer MGET would block Redis for all other clients for more than a millisecond.
MGET_KEYS = 2_000


def get(key: bytes) -> bytes:
    """GET, concatenated by hand: hiredis takes four times as long for it."""
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key)


def newest_behaviours(key: bytes, count: int, before: int | None) -> bytes:
    """Read the newest `count` behaviours older than `before` (ms). None means now, which excludes future ones."""
    if before is None:
        before = time_ns() // 1_000_000 + 1  # with what was done in this very millisecond
    bound = b"(%d" % before
    limit = b"%d" % count
    return (
        b"*7\r\n$16\r\nZREVRANGEBYSCORE\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
        b"$4\r\n-inf\r\n$5\r\nLIMIT\r\n$1\r\n0\r\n$%d\r\n%b\r\n" % (len(key), key, len(bound), bound, len(limit), limit)
    )


def user_reads(layouts: Layouts, user_id: str, before: int | None, shown: bool = False) -> list[tuple[bytes, bytes]]:
    """Return the reads of one user as (key, packed command): the row, the behaviours if the schema has any, and the
    shown items if requested.
    """
    key = user_key(layouts.fingerprint, user_id).encode()
    reads = [(key, get(key))]
    if layouts.behaviour is not None:
        key = behaviours_key(layouts.fingerprint, user_id).encode()
        reads.append((key, newest_behaviours(key, layouts.max_behaviours, before)))
    if shown:
        key = shown_items_key(user_id).encode()
        reads.append((key, get(key)))
    return reads


def item_read(key: bytes) -> bytes:
    """MGET of one key, for a cluster: MGET must not span several slots, and GET would refuse a key of another type."""
    return b"*2\r\n$4\r\nMGET\r\n$%d\r\n%b\r\n" % (len(key), key)


def item_reads(prefix: str, item_ids: Sequence[str]) -> tuple[bytes, int]:
    """Return MGET commands for the rows of items on one Redis, and the number of commands."""
    if len(item_ids) <= MGET_KEYS:
        return packed("MGET", *map("".join, zip(repeat(prefix), item_ids))), 1
    starts = range(0, len(item_ids), MGET_KEYS)
    parts = [packed("MGET", *(prefix + i for i in item_ids[start : start + MGET_KEYS])) for start in starts]
    return b"".join(parts), len(parts)
