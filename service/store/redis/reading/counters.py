"""Reads the counters of one request from Redis: the commands, and the cells from their replies."""

from collections.abc import Sequence
from typing import Any

from features.counters import ENTRY_BYTES
from features.layouts import Layouts
from service.store.counter_cache import CounterCache
from service.store.counters import StoredCounters
from service.store.redis.keys import item_counters_prefix, scene_counters_key, user_counters_key
from service.store.redis.reading.commands import MGET_KEYS, get, item_reads
from service.store.redis.reading.replies import is_other_type, is_refusal, packed_rows
from service.store.redis.reading.wire import packed

Command = tuple[bytes, bytes]  # the key, and the packed command


class CounterReads:
    """The reads of the counters of one request. Items whose cell is cached are not read."""

    def __init__(
        self, layouts: Layouts, cache: CounterCache, user_id: str, scene: str | None, item_ids: Sequence[str]
    ) -> None:
        self._cache = cache
        kinds = {layout.by: layout for layout in layouts.counters}
        self._of_users = {str(i): layout for i, layout in enumerate(layouts.counters) if layout.by == "user"}
        self._item_bytes = kinds["item"].entries * ENTRY_BYTES if "item" in kinds else 0
        self._scene_bytes = kinds["scene"].entries * ENTRY_BYTES if "scene" in kinds else 0
        fingerprint = layouts.fingerprint
        self._user_key = user_counters_key(fingerprint, user_id) if "user" in kinds else None
        self._scene_key = scene_counters_key(fingerprint, scene) if scene and self._scene_bytes else None
        self._prefix = item_counters_prefix(fingerprint)
        self._items: list[bytes | None] = cache.take(item_ids) if self._item_bytes else []
        places = [place for place, cell in enumerate(self._items) if cell is None]
        self._places = places
        self._ids = [item_ids[place] for place in places]
        self._keys_per_read: list[int] = []  # of the reads of items

    def together(self) -> list[Command]:
        """The commands for one Redis, which reads several items at once."""
        commands = self._of_request()
        for start in range(0, len(self._ids), MGET_KEYS):
            ids = self._ids[start : start + MGET_KEYS]
            self._keys_per_read.append(len(ids))
            commands.append((b"", item_reads(self._prefix, ids)[0]))
        return commands

    def apart(self) -> list[Command]:
        """The commands for a cluster, each of one key."""
        keys = [(self._prefix + item_id).encode() for item_id in self._ids]
        self._keys_per_read = [1] * len(keys)
        return self._of_request() + [(key, get(key)) for key in keys]

    def _of_request(self) -> list[Command]:
        commands = []
        if self._user_key is not None:
            commands.append((self._user_key.encode(), packed("HGETALL", self._user_key)))
        if self._scene_key is not None:
            key = self._scene_key.encode()
            commands.append((key, get(key)))
        return commands

    def stored(self, replies: list[Any], corrupt: dict[str, int]) -> StoredCounters:
        """The cells from the replies to the commands. A cell of another size or type is empty and counted as
        `corrupt`.
        """
        iterator = iter(replies)
        user = self._user_cells(next(iterator), corrupt) if self._user_key is not None else {}
        scene: bytes | None = bytes(self._scene_bytes)
        if self._scene_key is not None:
            scene = _cell(next(iterator), self._scene_bytes, corrupt)
        read: list[Any] = []
        for reply, count in zip(iterator, self._keys_per_read, strict=True):
            read += packed_rows(reply, count) if type(reply) is list else [reply] * count
        cells = [_cell(reply, self._item_bytes, corrupt) for reply in read]
        for place, cell in zip(self._places, cells, strict=True):
            self._items[place] = cell
        self._cache.keep({i: cell for i, cell in zip(self._ids, cells, strict=True) if cell is not None})
        return StoredCounters(self._items, user, scene)

    def _user_cells(self, reply: Any, corrupt: dict[str, int]) -> dict[str, bytes] | None:
        if is_other_type(reply):
            corrupt["counter"] = corrupt.get("counter", 0) + 1
            return {}
        if is_refusal(reply):
            return None
        pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
        cells = {}
        for raw, value in pairs:
            name = raw.decode(errors="replace")
            if self._fits(name, value):
                cells[name] = value
            else:
                corrupt["counter"] = corrupt.get("counter", 0) + 1
        return cells

    def _fits(self, name: str, value: bytes) -> bool:
        """Whether a cell of a user has a name and a size that the schema has."""
        place, _, cell = name.partition(":")
        layout = self._of_users.get(place)
        if layout is None or len(value) != layout.entries * ENTRY_BYTES:
            return False
        if layout.item_feature is None:
            return name == place
        return cell.isascii() and cell.isdecimal() and int(cell) < layout.values


def _cell(reply: Any, size: int, corrupt: dict[str, int]) -> bytes | None:
    """One cell of `size` bytes; None if it could not be read."""
    if reply is None:
        return bytes(size)
    if type(reply) is bytes and len(reply) == size:
        return reply
    if is_refusal(reply):
        return None
    corrupt["counter"] = corrupt.get("counter", 0) + 1
    return bytes(size)
