"""A perfect hash of 64-bit keys: one slot per key, reached by two reads of memory and a few integer operations.

Source: Pibiri and Trani, "PTHash: revisiting FCH minimal perfect hashing", SIGIR 2021 (arXiv 2104.10402): a bucket's
pilot is combined with the hash of each of its keys by exclusive or. Here the slots are a power of two, and a key is its
own hash, because keys are truncated SHA-256. Keys that are not spread evenly are mixed first, as MurmurHash3 ends.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_FULLEST = 0.8  # keys per slot
_KEYS_PER_BUCKET = 4
_MOST_IN_A_BUCKET = 64
_MOST_PILOTS = 1 << 16  # that are tried
_PLAIN_ATTEMPTS = 3
_ATTEMPTS = 24
_MOST_SLOT_BITS = 32
MIXING_SHIFT = 33


class PerfectHash(NamedTuple):
    """The slot of each key.

    `pilots` int32 `[2^bucket_bits]`: even numbers, because a slot has two places, that of the key and that of its row.
    `multipliers` are odd; there are none unless the keys as they are could not be placed.
    """

    pilots: np.ndarray
    bucket_bits: int
    slot_bits: int
    multipliers: tuple[int, ...] = ()

    @property
    def slots(self) -> int:
        """The number of slots."""
        return 1 << self.slot_bits

    @property
    def position_mask(self) -> int:
        """The bits of the first of a slot's two places."""
        return 2 * (self.slots - 1)

    def slots_of(self, keys: np.ndarray) -> np.ndarray:
        """The slots of keys int64 `[n]`, int64; each key that was placed has its own."""
        hashed, buckets = _hashed(keys, self.multipliers, self.bucket_bits)
        return ((hashed ^ self.pilots[buckets]) & self.position_mask) >> 1


def perfect_hash(keys: np.ndarray) -> PerfectHash:
    """Return a hash that gives distinct keys int64 `[V]`, V > 0, distinct slots.

    Raises ValueError for more keys than it has positions for, and for keys that 20 mixtures cannot part.
    """
    slot_bits = _bits(len(keys) / _FULLEST)
    fewest_bits = _bits(len(keys) / _KEYS_PER_BUCKET)
    if slot_bits > _MOST_SLOT_BITS:
        raise ValueError(f"{len(keys)} keys are more than the lookup has positions for")
    rng = np.random.default_rng(len(keys))
    for attempt in range(_ATTEMPTS):
        # Two keys with the same highest and lowest bits can never be parted. About every second set of millions of
        # keys has such a pair; one more bit for the buckets halves the chance. Then the keys are mixed.
        bucket_bits = fewest_bits + min(attempt, _PLAIN_ATTEMPTS - 1)
        multipliers: tuple[int, ...] = ()
        if attempt >= _PLAIN_ATTEMPTS:
            multipliers = tuple((2 * rng.integers(1 << 62, size=2) + 1).tolist())
        pilots = _pilots(keys, multipliers, bucket_bits, slot_bits)
        if pilots is not None:
            return PerfectHash(pilots, bucket_bits, slot_bits, multipliers)
    raise ValueError(f"no perfect hash was found for {len(keys)} keys")


def _bits(count: float) -> int:
    """The least number of bits that can number so many things, at least one."""
    return max(1, math.ceil(math.log2(count)))


def _hashed(keys: np.ndarray, multipliers: Sequence[int], bucket_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The mixed keys and their buckets, int64 `[V]` each; products are modulo 2^64."""
    hashed = keys
    for multiplier in multipliers:
        shifted = (hashed.view(np.uint64) >> np.uint64(MIXING_SHIFT)).view(np.int64)
        hashed = (hashed ^ shifted) * np.int64(multiplier)
    return hashed, (hashed.view(np.uint64) >> np.uint64(64 - bucket_bits)).view(np.int64)


def _pilots(keys: np.ndarray, multipliers: Sequence[int], bucket_bits: int, slot_bits: int) -> np.ndarray | None:
    """The pilots int32 `[2^bucket_bits]`; None if a bucket cannot be placed."""
    # Sort the keys by bucket; only a key's slot without a pilot matters from here on.
    hashed, buckets = _hashed(keys, multipliers, bucket_bits)
    plain = (hashed >> 1) & ((1 << slot_bits) - 1)
    counts = np.bincount(buckets, minlength=1 << bucket_bits)
    largest = int(counts.max())
    if largest > _MOST_IN_A_BUCKET:
        return None
    ordered = np.sort((buckets << slot_bits) | plain)
    if (ordered[1:] == ordered[:-1]).any():
        return None
    plain = ordered & ((1 << slot_bits) - 1)
    starts = np.cumsum(counts) - counts
    # Place the largest buckets first, while most slots are free.
    is_taken = np.zeros(1 << slot_bits, dtype=bool)
    owner = np.zeros(1 << slot_bits, dtype=np.int32)
    pilots = np.zeros(1 << bucket_bits, dtype=np.int32)
    for size in range(largest, 0, -1):
        of_size = np.flatnonzero(counts == size)
        waiting = _place(plain[starts[of_size][:, None] + np.arange(size)], of_size, is_taken, owner, pilots)
        if waiting:
            return None
    return pilots


def _place(plain: np.ndarray, buckets: np.ndarray, is_taken: np.ndarray, owner: np.ndarray, pilots: np.ndarray) -> int:
    """Place buckets of one size, whose keys have the slots `plain` `[m, size]` without a pilot; fill in what it says.

    Returns the number of buckets that no pilot could place. All buckets try the same pilot at once; of those that want
    one slot, the last one gets it.
    """
    for pilot in range(min(len(is_taken), _MOST_PILOTS)):
        if not len(buckets):
            break
        slots = plain ^ pilot
        free = np.flatnonzero(~is_taken[slots].any(1))
        slots = slots[free]
        numbers = np.arange(len(free), dtype=np.int32)
        owner[slots] = numbers[:, None]
        placed = (owner[slots] == numbers[:, None]).all(1)
        is_taken[slots[placed]] = True
        done = free[placed]
        pilots[buckets[done]] = 2 * pilot
        keep = np.ones(len(buckets), dtype=bool)
        keep[done] = False
        buckets = buckets[keep]
        plain = plain[keep]
    return len(buckets)
