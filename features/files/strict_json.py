"""Reads JSON strictly: refuses a key that occurs twice in an object, and values that JSON cannot represent again."""

import json
from typing import Any

_MOST_DIGITS = 20  # of an integer of 64 bits, with its sign


class DuplicateKeyError(ValueError):
    """An object has a key twice, so one of the two values would be lost."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key!r} occurs twice")
        self.key = key


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text.

    Raises DuplicateKeyError, json.JSONDecodeError or UnicodeDecodeError if it is not valid, and ValueError for an
    integer of more than 64 bits or half a surrogate pair; all are ValueErrors.
    """
    value = json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a string has half a surrogate pair, which is no character") from None
    return value


def _integer(digits: str) -> int:
    if len(digits) <= _MOST_DIGITS:
        value = int(digits)
        if -(2**63) <= value < 2**63:
            return value
    raise ValueError(f"an integer has more than 64 bits: {digits[:_MOST_DIGITS]}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys: set[str] = set()
        for key, _value in pairs:
            if key in keys:
                raise DuplicateKeyError(key)
            keys.add(key)
    return values
