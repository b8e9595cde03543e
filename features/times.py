"""Bounds of all times in the input: the same for requests, events, tables and loads.

Times are int64 milliseconds since 1970 (UTC). The bounds are such that seconds and microseconds are recognised.
"""

import math
import time
from datetime import UTC, datetime

import numpy as np

EARLIEST_MS = 100_000_000_000  # March 1973; a smaller number is seconds by mistake
LATEST_MS = 253_402_300_799_999  # the end of the year 9999
LATEST_AHEAD_MS = 300_000  # five minutes: clocks differ; a behaviour that is further ahead comes from a wrong one
UNKNOWN_MS = 0  # an impression whose time is unknown

_PLAUSIBLE_MS = 7_258_118_400_000  # the year 2200: a guess of the unit has to give a date before it
_MICROSECONDS_MS = 1_000
_NANOSECONDS_MS = 1_000_000


def latest_now_ms() -> int:
    """Return the latest time that a behaviour or an impression may have now."""
    return time.time_ns() // 1_000_000 + LATEST_AHEAD_MS


def out_of_bounds(times_ms: np.ndarray, latest_ms: int = LATEST_MS) -> np.ndarray:
    """Return a mask of the times outside [EARLIEST_MS, latest_ms], bool in the shape of `times_ms`."""
    return np.asarray((times_ms < EARLIEST_MS) | (times_ms > latest_ms))


def time_problem(time_ms: int, latest_ms: int = LATEST_MS) -> str:
    """Return a message about a time outside the bounds, with a guess at the unit that the caller meant."""
    text = f"{time_ms}, which is {_date(time_ms)}"
    if EARLIEST_MS <= time_ms * 1000 <= _PLAUSIBLE_MS:
        return f"{text}; did you mean seconds? Times are milliseconds since 1970"
    for unit, factor in (("microseconds", _MICROSECONDS_MS), ("nanoseconds", _NANOSECONDS_MS)):
        if time_ms > LATEST_MS and EARLIEST_MS <= time_ms // factor <= _PLAUSIBLE_MS:
            return f"{text}; did you mean {unit}? Times are milliseconds since 1970"
    if EARLIEST_MS <= time_ms <= LATEST_MS:
        return f"{text}, later than {_date(latest_ms)}, the latest time accepted here"
    return f"{text}; times are milliseconds since 1970 and lie between {_date(EARLIEST_MS)} and {_date(LATEST_MS)}"


def _date(time_ms: int) -> str:
    """The day as `2022-05-01`; only the year if it is beyond the range of dates."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).date().isoformat()
    except (OverflowError, ValueError, OSError):
        year = 1970 + math.floor(time_ms / (365.2425 * 86_400_000))
        return f"the year {year}"
