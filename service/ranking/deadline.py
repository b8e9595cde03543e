"""Defines the deadline that a request carries through every stage."""

from collections.abc import Callable
from time import monotonic

from service.errors import CallerLeft, DeadlineExceeded


class Deadline:
    """A point in time after which an answer is of no use to the caller."""

    __slots__ = ("at", "timeout_ms")

    def __init__(self, timeout_ms: int, started: float | None = None) -> None:
        self.timeout_ms = timeout_ms
        self.at = (monotonic() if started is None else started) + timeout_ms / 1000

    def remaining(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self.at - monotonic())

    def check(self, before: str) -> None:
        """Raise DeadlineExceeded if no time is left for the next stage."""
        if monotonic() >= self.at:
            raise DeadlineExceeded(f"the deadline of {self.timeout_ms} ms passed before {before}")


def nobody_left() -> bool:
    """Say that the caller still waits, where nobody knows."""
    return False


def check_waiting(deadline: Deadline, has_left: Callable[[], bool], before: str) -> None:
    """Raise CallerLeft or DeadlineExceeded if nobody waits for the next stage."""
    if has_left():
        raise CallerLeft
    deadline.check(before)
