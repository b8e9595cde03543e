"""Limits the rate of a caller: a token bucket."""


class TokenBucket:
    """Holds up to one second of requests, at least one. `rate` is in requests per second."""

    __slots__ = ("_at", "_capacity", "_tokens", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._capacity = max(1.0, rate)
        self._tokens = self._capacity
        self._at = now

    def take(self, now: float) -> float:
        """Take one request at a time in seconds; return 0, or the seconds until there is room for one."""
        # A request that began earlier may be checked later, so time may step back by a little.
        if now > self._at:
            self._tokens = min(self._capacity, self._tokens + (now - self._at) * self.rate)
            self._at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self.rate
        self._tokens -= 1
        return 0.0
