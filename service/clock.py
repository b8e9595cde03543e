"""Tells the time in milliseconds since 1970. It follows the system's clock, but never steps back."""

from time import monotonic, time

_START = time() - monotonic()


def now_ms() -> int:
    """Now. If the system's clock is set back while the process runs, time goes on from where it was.

    Otherwise events with the right time would be refused as future ones, and rankings would not see them.
    """
    return int(max(time(), _START + monotonic()) * 1000)
