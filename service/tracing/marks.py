"""Keeps the times at which the stages of one request began."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

from service.tracing.context import TraceContext

Value = str | int | float | list[str]


class Marks:
    """The stages of a request in order, each with the time in seconds (`monotonic`) at which it began.

    A stage ends where the next one begins. `facts` describes the ranking, if there is one; it is called only for a
    traced request.
    """

    __slots__ = ("facts", "stages")

    def __init__(self) -> None:
        self.stages: list[tuple[str, float]] = []
        self.facts: Callable[[], Mapping[str, Value]] | None = None

    def begin(self, stage: str) -> None:
        self.stages.append((stage, monotonic()))


def begin(marks: Marks | None, stage: str) -> None:
    """Begin a stage, if the request is traced."""
    if marks is not None:
        marks.begin(stage)


@dataclass(frozen=True, slots=True)
class FinishedTrace:
    """A traced request. Times are seconds of `monotonic`; `error` is empty unless the service failed."""

    name: str
    context: TraceContext
    started: float
    ended: float
    stages: list[tuple[str, float]]
    attributes: Mapping[str, Value] = field(default_factory=dict)
    error: str = ""
