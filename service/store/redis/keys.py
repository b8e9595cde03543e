"""The names of the keys in Redis.

`<fp>` is the fingerprint of the feature schema, so that rows of two schemas live side by side. `{}` is a cluster hash
tag: what belongs to one user lies in one slot.
"""

SCHEMAS = "fr:schemas"
ITEM_MARK = b":i:"  # what stands before the item's id in the key of an item row


def user_key(fingerprint: str, user_id: str) -> str:
    """String: the packed user row."""
    return f"fr:{fingerprint}:u:{{{user_id}}}"


def behaviours_key(fingerprint: str, user_id: str) -> str:
    """Sorted set: score = time in ms, member = 8-byte event key + packed behaviour row."""
    return f"fr:{fingerprint}:s:{{{user_id}}}"


def item_prefix(fingerprint: str) -> str:
    """The prefix of the keys of all item rows of a schema."""
    return f"fr:{fingerprint}:i:"


def item_key(fingerprint: str, item_id: str) -> str:
    """String: the packed item row."""
    return item_prefix(fingerprint) + item_id


def load_key(fingerprint: str, tables: str) -> str:
    """Hash: how many rows of each of these tables are loaded; there while a bulk load is not complete."""
    return f"fr:{fingerprint}:load:{tables}"


def claims_key(fingerprint: str) -> str:
    """Hash: id -> folder of each registry from which the schema was loaded."""
    return f"fr:{fingerprint}:registries"


def every_key(fingerprint: str) -> str:
    """The pattern that all keys of one schema match, and no other."""
    return f"fr:{fingerprint}:*"
