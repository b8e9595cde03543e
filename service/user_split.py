"""Splits users by a hash: a user and a salt always give the same position, on every worker and host."""

from collections.abc import Sequence
from hashlib import blake2b

PLACES = 10_000


def place_of(user_id: str, salt: str) -> int:
    """Return 0..9999: the first 8 bytes (little-endian) of BLAKE2b over `salt`, a byte 0x1f and `user_id`, modulo 10
    000.

    Another salt gives another, independent split. The salt of a canary is its `name/version`, so a higher percentage
    keeps the present users, and the next canary gets different ones.
    """
    return int.from_bytes(blake2b(f"{salt}\x1f{user_id}".encode(), digest_size=8).digest(), "little") % PLACES


def within(user_id: str, salt: str, percent: float) -> bool:
    """Return whether a user is in the first `percent` of the split, in steps of 0.01 percent."""
    return place_of(user_id, salt) < round(percent * PLACES / 100)


def share_of(user_id: str, salt: str, percents: Sequence[float]) -> int | None:
    """Return the index of the share that a user is assigned to; None for users beyond all shares."""
    place = place_of(user_id, salt)
    end = 0.0
    for share, percent in enumerate(percents):
        end += percent
        if place < round(end * PLACES / 100):
            return share
    return None
