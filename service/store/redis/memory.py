"""Computes the memory that Redis needs for a feature schema and counts, from the sizes of Redis' own structures.

The sizes are those of Redis 6.2 and 7 on 64 bits (its `sds.h`, `dict.h`, `server.h`, `ziplist.c`, `t_zset.c`), each
rounded up as the allocator does. The result is `used_memory` of INFO.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from features.counters import ENTRY_BYTES as COUNTER_BYTES
from features.layouts import Layouts
from service.store.counters import cell_name
from service.store.redis.keys import (
    behaviours_key,
    item_counters_key,
    item_key,
    scene_counters_key,
    shown_items_key,
    user_counters_key,
    user_key,
)
from service.store.shown import ENTRY_BYTES, KEPT_ENTRIES

Allocator = Callable[[int], int]
BASE_BYTES = 1_000_000  # of an empty Redis
HEADROOM = 1.25  # of maxmemory: buffers of clients and replicas, growing hash tables
_POINTER = 8
_ENTRY_BYTES = 24  # of a hash table's entry: key, value, next
_OBJECT_BYTES = 16
_DICT_BYTES = 96  # of a hash table without its buckets
_SCENE_CHARACTERS = 8
_EMBEDDED = 44  # longest string that is stored inside its object
_MOST_COMPACT_ENTRIES = 128  # zset-max-listpack-entries, hash-max-listpack-entries
_MOST_COMPACT_BYTES = 64
_LEVELS = 12  # more levels of a skip list are too rare to count


def jemalloc(size: int) -> int:
    """Bytes of an allocation in Redis' own builds: multiples of 8 up to 64, then four sizes per doubling."""
    return _size_class(size, 8)


def jemalloc_16(size: int) -> int:
    """Bytes of an allocation with a system's jemalloc, as in the packages of Debian and Ubuntu."""
    return _size_class(size, 16)


def libc(size: int) -> int:
    """Usable bytes of an allocation of glibc's malloc, which are what Redis counts."""
    return max(24, (size + 8 + 15) // 16 * 16 - 8)


ALLOCATORS: Final[Mapping[str, Allocator]] = MappingProxyType(
    {"jemalloc": jemalloc, "jemalloc-16": jemalloc_16, "libc": libc}
)


def _size_class(size: int, quantum: int) -> int:
    if size <= 4 * 2 * quantum:
        return max(8, (size + quantum - 1) // quantum * quantum)
    step = 1 << ((size - 1).bit_length() - 3)
    return (size + step - 1) // step * step


@dataclass(frozen=True)
class StoredCounts:
    """What is to be stored. `behaviours` and `shown` are per user; ids have this many characters.

    If the schema has counters, every item, user and scene has some. `cells` is the number of values of an item feature
    by which a user's events are counted, per such counter; None stands for all cells of the schema.
    """

    users: int
    items: int
    behaviours: int = 0
    shown: int = 0
    scenes: int = 1
    cells: int | None = None
    user_id_characters: int = 8
    item_id_characters: int = 8
    user_rows_expire: bool = False
    behaviours_expire: bool = False


class KeyGroup(NamedTuple):
    """One kind of keys: their number, and the bytes of one without its share of the table of all keys."""

    name: str
    keys: int
    each: float


@dataclass(frozen=True)
class Memory:
    """The memory of a schema by kind of keys."""

    groups: tuple[KeyGroup, ...]
    tables: int

    @property
    def total(self) -> int:
        return BASE_BYTES + self.tables + round(sum(group.keys * group.each for group in self.groups))


def memory_of(layouts: Layouts, counts: StoredCounts, allocate: Allocator = jemalloc) -> Memory:
    """Return the memory for a schema's rows and sequences."""
    # The keys with ids of the given length
    fingerprint = layouts.fingerprint
    user_id = "x" * counts.user_id_characters
    user = user_key(fingerprint, user_id)
    item = item_key(fingerprint, "x" * counts.item_id_characters)
    groups = [
        KeyGroup("item rows", counts.items, _string(item, layouts.item.dtype.itemsize, False, allocate)),
        KeyGroup(
            "user rows", counts.users, _string(user, layouts.user.dtype.itemsize, counts.user_rows_expire, allocate)
        ),
    ]
    expiring = counts.users if counts.user_rows_expire else 0

    # Behaviour sequences
    if layouts.behaviour is not None and counts.behaviours:
        key = behaviours_key(fingerprint, user_id)
        stored = min(counts.behaviours, layouts.kept_behaviours)
        each = _key(key, counts.behaviours_expire, allocate) + _sorted_set(stored, layouts.member.itemsize, allocate)
        groups.append(KeyGroup("sequences", counts.users, each))
        expiring += counts.users if counts.behaviours_expire else 0

    # Shown items, which always expire
    if counts.shown:
        stored = min(counts.shown, KEPT_ENTRIES) * ENTRY_BYTES
        groups.append(KeyGroup("shown items", counts.users, _string(shown_items_key(user_id), stored, True, allocate)))
        expiring += counts.users

    # Counters, which always expire
    counters = [group for group in _counters(layouts, counts, allocate) if group.keys]
    groups += counters
    expiring += sum(group.keys for group in counters)
    keys = sum(group.keys for group in groups)
    return Memory(tuple(groups), _table(keys, allocate) + _table(expiring, allocate))


def _counters(layouts: Layouts, counts: StoredCounts, allocate: Allocator) -> Iterator[KeyGroup]:
    fingerprint = layouts.fingerprint
    item = item_counters_key(fingerprint, "x" * counts.item_id_characters)
    scene = scene_counters_key(fingerprint, "x" * _SCENE_CHARACTERS)
    of_user = []
    for place, layout in enumerate(layouts.counters):
        size = layout.entries * COUNTER_BYTES
        if layout.by == "item":
            yield KeyGroup("item counters", counts.items, _string(item, size, True, allocate))
        elif layout.by == "scene":
            yield KeyGroup("scene counters", counts.scenes, _string(scene, size, True, allocate))
        elif layout.item_feature is None:
            of_user.append((len(cell_name(place)), size))
        else:
            cells = layout.values if counts.cells is None else min(layout.values, counts.cells)
            of_user += [(len(cell_name(place, cell)), size) for cell in range(cells)]
    if of_user:
        user = user_counters_key(fingerprint, "x" * counts.user_id_characters)
        yield KeyGroup("user counters", counts.users, _key(user, True, allocate) + _hash(of_user, allocate))


def _table(entries: int, allocate: Allocator) -> int:
    """The buckets of a hash table: the next power of two."""
    if entries == 0:
        return 0
    return allocate(_POINTER * max(4, 1 << (entries - 1).bit_length()))


def _key(key: str, expires: bool, allocate: Allocator) -> float:
    """The entry of a key in the table of all keys, and in that of the times at which keys expire."""
    entries = 2 if expires else 1
    return allocate(_text(len(key))) + entries * allocate(_ENTRY_BYTES)


def _text(length: int) -> int:
    """The bytes of a text with its header and its final zero."""
    if length < 32:
        return length + 2
    return length + 4 if length < 256 else length + 6


def _string(key: str, length: int, expires: bool, allocate: Allocator) -> float:
    # The header of an embedded text is the same for every length.
    if length <= _EMBEDDED:
        return _key(key, expires, allocate) + allocate(_OBJECT_BYTES + length + 4)
    return _key(key, expires, allocate) + allocate(_OBJECT_BYTES) + allocate(_text(length))


def _hash(fields: Sequence[tuple[int, int]], allocate: Allocator) -> float:
    """The bytes of a hash, from the lengths of its fields and values."""
    if len(fields) <= _MOST_COMPACT_ENTRIES and max(map(max, fields)) <= _MOST_COMPACT_BYTES:
        # Per field and per value: the lengths before and after it.
        return allocate(_OBJECT_BYTES) + allocate(7 + sum(name + value + 5 for name, value in fields))
    each = sum(allocate(_ENTRY_BYTES) + allocate(_text(name)) + allocate(_text(value)) for name, value in fields)
    return allocate(_OBJECT_BYTES) + allocate(_DICT_BYTES) + _table(len(fields), allocate) + each


def _sorted_set(entries: int, member: int, allocate: Allocator) -> float:
    if entries <= _MOST_COMPACT_ENTRIES and member <= _MOST_COMPACT_BYTES:
        # Per entry: the lengths before and after the member, and ten bytes of the time.
        return allocate(_OBJECT_BYTES) + allocate(11 + entries * (member + 3 + 10))
    lists = 32
    first_node = 24 + 32 * 16
    fixed = sum(map(allocate, (_OBJECT_BYTES, 16, _DICT_BYTES, lists, first_node)))
    node = sum(0.75 * 0.25 ** (level - 1) * allocate(24 + 16 * level) for level in range(1, _LEVELS))
    each = allocate(_text(member)) + allocate(_ENTRY_BYTES) + node
    return fixed + _table(entries, allocate) + entries * each
