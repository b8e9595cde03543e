"""Defines the names of the keys in Redis.

`<fp>` is the fingerprint of the feature schema, so rows of two schemas can be stored side by side. `{}` is a cluster
hash tag: it puts all keys of one user into one slot.
"""

SCHEMAS = "fr:schemas"
CALLER_USES = "fr:callers"  # hash: id of a caller's key -> time of its last use in ms
ITEM_MARK = b":i:"  # what stands before the item's id in the key of an item row


def user_key(fingerprint: str, user_id: str) -> str:
    """String: the packed user row."""
    return f"fr:{fingerprint}:u:{{{user_id}}}"


def behaviours_key(fingerprint: str, user_id: str) -> str:
    """Sorted set: score = time in ms, member = 8-byte event key + packed behaviour row."""
    return f"fr:{fingerprint}:s:{{{user_id}}}"


def shown_items_key(user_id: str) -> str:
    """String: the items that a user was shown or acted on, under any feature schema, packed by `store/shown.py`."""
    return f"fr:shown:{{{user_id}}}"


def item_prefix(fingerprint: str) -> str:
    """The prefix of the keys of all item rows of a schema."""
    return f"fr:{fingerprint}:i:"


def item_key(fingerprint: str, item_id: str) -> str:
    """String: the packed item row."""
    return item_prefix(fingerprint) + item_id


def item_counters_prefix(fingerprint: str) -> str:
    """The prefix of the keys of all items' counters of a schema."""
    return f"fr:{fingerprint}:ci:"


def item_counters_key(fingerprint: str, item_id: str) -> str:
    """String: the cell of an item's counters, packed by `features/counters.py`; it expires."""
    return item_counters_prefix(fingerprint) + item_id


def user_counters_key(fingerprint: str, user_id: str) -> str:
    """Hash: kind of cell (its place in the schema), then `:` and the number of the cell where there are several -> a
    cell of the user's counters. It expires.
    """
    return f"fr:{fingerprint}:cu:{{{user_id}}}"


def scene_counters_key(fingerprint: str, scene: str) -> str:
    """String: the cell of a scene's counters; it expires."""
    return f"fr:{fingerprint}:cs:{scene}"


def load_key(fingerprint: str, tables: str) -> str:
    """Hash: the number of loaded rows by table; it exists until a bulk load is complete."""
    return f"fr:{fingerprint}:load:{tables}"


def claims_key(fingerprint: str) -> str:
    """Hash: id -> folder of each registry from which the schema was loaded."""
    return f"fr:{fingerprint}:registries"


def every_key(fingerprint: str) -> str:
    """A pattern that matches all keys of one schema, and no other key."""
    return f"fr:{fingerprint}:*"
