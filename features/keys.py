"""Hashes raw categorical values to 64-bit keys, the same in every process and language.

    key = the first 8 bytes, big-endian, read as a signed 64-bit integer,
          of SHA-256(UTF-8(vocabulary) + 0x1F + UTF-8(value))

A value is written as text first: a string as it is, an integer in decimal, a whole float as its integer (column readers
turn integers with gaps into floats), a boolean as `1` or `0`. So `39`, `"39"` and `39.0` are one key. null, NaN and the
empty string are missing and have key 0; the hash itself is never 0 (it becomes 1 there). SHA-256 because every standard
library and SQL engine has it, so a data warehouse can compute the same keys.
"""

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import sha256

import numpy as np

from features.errors import FeatureError

MISSING_KEY = 0
MAX_VALUE_CHARACTERS = 512
MAX_ID_CHARACTERS = 256  # of a user or an item
_SEPARATOR = b"\x1f"
PartOf = Callable[[str], str] | None  # cuts the part of a text that is hashed; None: the whole text
_EXACT = 2.0**53  # integers from here on do not all have a float of their own


def sorted_distinct(values: np.ndarray) -> np.ndarray:
    """Return the distinct ones of integers `[n]`, ascending.

    `np.unique` hashes integers one by one if nothing else is asked of it, and takes 70 times as long for two million
    distinct ones (numpy 2.4).
    """
    ordered = np.sort(values)
    changes = ordered[1:] != ordered[:-1]
    first: np.ndarray = ordered[np.concatenate([np.ones(min(1, len(ordered)), dtype=bool), changes])]
    return first


def text_of(value: object, field: str) -> str:
    """Return the canonical text of a categorical value; `""` if it is missing.

    Raises FeatureError for fractions, infinities, lists, mappings and over-long strings.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        if len(value) > MAX_VALUE_CHARACTERS:
            raise FeatureError(
                field, f"a categorical value has at most {MAX_VALUE_CHARACTERS} characters, this one {len(value)}"
            )
        return value
    if type(value) is int:  # most values that are no text
        return str(value)
    if isinstance(value, bool | np.bool_):
        return "1" if value else "0"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        if math.isnan(value):
            return ""
        if math.isfinite(value) and abs(float(value)) >= _EXACT:
            raise FeatureError(field, f"{value!r} is a float that no longer holds every digit; send an integer or text")
        if math.isfinite(value) and float(value).is_integer():
            return str(int(value))
        raise FeatureError(field, f"a categorical value is a string or an integer, not the fraction {value!r}")
    raise FeatureError(field, f"a categorical value is a string or an integer, not {type(value).__name__}")


def too_long(entity_id: str) -> str:
    """The message about an id that is too long for a request."""
    return f"an id has at most {MAX_ID_CHARACTERS} characters, this one {len(entity_id)}"


def id_keys_of_column(values: np.ndarray | Iterable[object], field: str) -> np.ndarray:
    """Keys by which tables name users and items, int64 `[n]`. Raises FeatureError for what no request could name."""
    raw = values.tolist() if isinstance(values, np.ndarray) else list(values)
    long = next((v for v in raw if isinstance(v, str) and len(v) > MAX_ID_CHARACTERS), None)
    if long is not None:
        raise FeatureError(field, too_long(long))
    return keys_of_column("id", values, field)


def _key_of_text(text: str, prefix: bytes) -> int:
    try:
        encoded = text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can smuggle in
        encoded = text.encode("utf-8", "replace")
    return int.from_bytes(sha256(prefix + encoded).digest()[:8], "big", signed=True) or 1


# For the single values of a request; a context has few different values.
_remembered = lru_cache(maxsize=4096)(_key_of_text)


def key_of(vocabulary: str, value: object, field: str | None = None, part_of: PartOf = None) -> int:
    """Return the signed 64-bit key of one raw value, or of a part of its text; MISSING_KEY if it is missing."""
    text = text_of(value, field or vocabulary)
    if part_of is not None:
        text = part_of(text)
    return _remembered(text, vocabulary.encode() + _SEPARATOR) if text else MISSING_KEY


def keys_of_column(
    vocabulary: str, values: np.ndarray | Iterable[object], field: str | None = None, part_of: PartOf = None
) -> np.ndarray:
    """Return the keys of a whole column, int64 `[n]`: every distinct value is hashed once."""
    known: dict[object, int] = {}
    field = field or vocabulary
    prefix = vocabulary.encode() + _SEPARATOR

    def key(value: object) -> int:
        text = text_of(value, field)
        if part_of is not None:
            text = part_of(text)
        return _key_of_text(text, prefix) if text else MISSING_KEY

    raw = values.tolist() if isinstance(values, np.ndarray) else list(values)
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        distinct, inverse = np.unique(values, return_inverse=True)
        return np.array([key(v) for v in distinct.tolist()], dtype=np.int64)[inverse]
    out = np.empty(len(raw), dtype=np.int64)
    for i, value in enumerate(raw):
        try:
            hashed = known.get(value)
        except TypeError:  # unhashable, so certainly not a categorical value
            hashed = None
        if hashed is None:
            hashed = key(value)
            known[value] = hashed
        out[i] = hashed
    return out
