"""Tells the time in milliseconds since 1970. It follows the system's clock, but never steps back."""

from time import monotonic, time

_START = time() - monotonic()


def now_ms() -> int:
    """Return the time now. If the system's clock is set back while the process runs, time continues from where it was.

    Otherwise events with the right time would be refused as future events, and rankings would not see them.
    """
    return int(max(time(), _START + monotonic()) * 1000)
