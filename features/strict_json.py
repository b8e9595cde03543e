"""Reads JSON strictly: a key that occurs twice in an object is refused with its name."""

import json
from typing import Any


class DuplicateKeyError(ValueError):
    """An object has a key twice, so that one of the two values would be lost."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key!r} stands twice")
        self.key = key


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises DuplicateKeyError, and json.JSONDecodeError or UnicodeDecodeError where it is none; all ValueErrors.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys: set[str] = set()
        for key, _value in pairs:
            if key in keys:
                raise DuplicateKeyError(key)
            keys.add(key)
    return values
