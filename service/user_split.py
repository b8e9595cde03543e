"""Splits users: the same user and salt always get the same place, on every worker and host."""

from hashlib import blake2b

PLACES = 10_000


def place_of(user_id: str, salt: str) -> int:
    """0..9999: the first 8 bytes (little-endian) of BLAKE2b over `salt`, a byte 0x1f and `user_id`, modulo 10 000.

    Another salt is another, independent split. The salt of a canary is its `name/version`, so that raising its
    percentage keeps those who have it, and the next canary meets other users.
    """
    return int.from_bytes(blake2b(f"{salt}\x1f{user_id}".encode(), digest_size=8).digest(), "little") % PLACES


def within(user_id: str, salt: str, percent: float) -> bool:
    """Whether a user is in the first `percent` of the split, in steps of a hundredth of a percent."""
    return place_of(user_id, salt) < round(percent * PLACES / 100)
