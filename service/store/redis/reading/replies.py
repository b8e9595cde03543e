"""Checks the type and length of Redis' replies, because a broken proxy may send anything.

An error reply is a refusal (StoreDown), with one exception: a key with a value of another type counts as one corrupt
row.
"""

from collections.abc import Sequence
from typing import Any

import hiredis
import numpy as np

from features.layouts import EVENT_KEY_BYTES, Layouts
from service.store.base import StoreDown, StoredRows
from service.store.item_rows import CORRUPT, ItemRows
from service.store.redis.reading.connection import WrongReply
from service.store.shown import ENTRY_BYTES

_BYTES_LENGTH = bytes.__len__  # checks the type in the same pass
_BYTES_OR_NOTHING = {bytes, type(None)}


def refusal(reply: Any, command: str) -> StoreDown:
    """Return the error for a reply that `command` cannot have."""
    if isinstance(reply, StoreDown):
        return reply
    if isinstance(reply, Exception):
        return StoreDown(f"Redis refuses to read: {reply}")
    return WrongReply(f"Redis answered {command} with {_described(reply)}")


def _described(reply: Any) -> str:
    size = f" of {len(reply)}" if isinstance(reply, list | dict) else ""
    return f"{type(reply).__name__}{size}"


def is_other_type(reply: Any) -> bool:
    """Return whether the key has a value of another type than the command reads."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("WRONGTYPE")


def is_refusal(reply: Any) -> bool:
    """Return whether a reply is an error that is not about the value of one key."""
    return isinstance(reply, Exception) and not is_other_type(reply)


def packed_rows(reply: Any, n: int) -> list[bytes | None]:
    """The reply to MGET of `n` keys. Raises StoreDown."""
    if type(reply) is list and len(reply) == n and set(map(type, reply)) <= _BYTES_OR_NOTHING:
        return reply
    raise refusal(reply, f"MGET of {n} keys")


def stored_rows(layouts: Layouts, of_user: Sequence[Any], items: ItemRows) -> StoredRows:
    """Return the rows of one request from the replies to the reads of its user. Raises StoreDown.

    A row that does not have the schema's length, or a key of another type, is absent and counted as corrupt.
    """
    corrupt: dict[str, int] = {}
    user = of_user[0]
    behaviours = of_user[1] if layouts.behaviour is not None else []
    shown = of_user[-1] if len(of_user) > 1 + (layouts.behaviour is not None) else None

    # The user's row.
    if user is not None and (type(user) is not bytes or len(user) != layouts.user.dtype.itemsize):
        if type(user) is not bytes and not is_other_type(user):
            raise refusal(user, "GET")
        user = None
        corrupt["user"] = 1

    # The behaviours, newest first.
    if behaviours:
        assert layouts.behaviour is not None
        if type(behaviours) is list:
            try:
                sizes = set(map(_BYTES_LENGTH, behaviours))
            except TypeError:
                raise refusal(behaviours, "ZREVRANGEBYSCORE") from None
            if len(behaviours) > layouts.max_behaviours:
                raise refusal(behaviours, "ZREVRANGEBYSCORE")
            size = layouts.behaviour.dtype.itemsize + EVENT_KEY_BYTES
            if sizes != {size}:
                fitting = [member for member in behaviours if len(member) == size]
                corrupt["behaviour"] = len(behaviours) - len(fitting)
                behaviours = fitting
        elif is_other_type(behaviours):
            corrupt["behaviour"] = 1
            behaviours = []
        else:
            raise refusal(behaviours, "ZREVRANGEBYSCORE")
    elif type(behaviours) is not list:
        raise refusal(behaviours, "ZREVRANGEBYSCORE")

    if np.count_nonzero(items.states) and (corrupt_items := int(np.count_nonzero(items.states == CORRUPT))):
        corrupt["item"] = corrupt_items

    if shown is not None and not _is_shown(shown):
        shown = None
        corrupt["shown"] = 1
    return StoredRows(user, behaviours, items, corrupt, shown=shown)


def _is_shown(reply: Any) -> bool:
    """Return whether a reply holds entries of shown items. Raises StoreDown if it is a refusal."""
    if type(reply) is bytes:
        return len(reply) % ENTRY_BYTES == 0
    if not is_other_type(reply):
        raise refusal(reply, "GET")
    return False


def documents(reply: Any) -> dict[str, str]:
    """Return the reply to HGETALL, in RESP2 or RESP3, as text. Raises StoreDown."""
    pairs: list[tuple[Any, Any]] | None = None
    if isinstance(reply, dict):
        pairs = list(reply.items())
    elif isinstance(reply, list) and len(reply) % 2 == 0:
        pairs = list(zip(reply[::2], reply[1::2], strict=True))
    if pairs is None or not all(type(key) is type(value) is bytes for key, value in pairs):
        raise refusal(reply, "HGETALL")
    # A field that is not text does not name a schema of ours, and must not hide the others.
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in pairs}


def rows_or_unknown(layouts: Layouts, item_ids: Sequence[str], rows: Sequence[bytes | None]) -> list[bytes]:
    """Return packed rows of items; for an item without a row, that of an unknown item."""
    return [layouts.row_or_unknown("item", i, row) for i, row in zip(item_ids, rows, strict=True)]
