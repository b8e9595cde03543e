"""The section `log` of a recipe: how an exposure log becomes labelled impressions."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.options import Options

Action = Annotated[str, Field(min_length=1, max_length=512)]


class SeenRule(Options):
    """Which returned items count as impressions. Nothing is inferred unless a recipe says so.

    `explicit`: those of `/impressions`. `returned`: all. `up_to_last_click_plus`: those down to the last item
    with one of the `actions`, and `k` more; a list without such an item has none.
    """

    by: Literal["explicit", "returned", "up_to_last_click_plus"]
    k: Annotated[int, Field(ge=0)] = 0
    actions: tuple[Action, ...] = ()


class LoggedLabel(Options):
    """A label: whether one of the `actions` followed within `window_s` seconds after the exposure.

    With `value` it is how much: the sum, or the largest, of the events' values within the window; 0 without one.

    `first_after_s`, for a task with the correction `fake_negatives`: the age in seconds at which an impression is
    labelled for the first time; an action that comes later repeats it.
    """

    actions: Annotated[tuple[Action, ...], Field(min_length=1)]
    window_s: Annotated[float, Field(gt=0)]
    value: Annotated[Literal["sum", "max"] | None, Field(exclude_if=lambda value: value is None)] = None
    first_after_s: Annotated[float | None, Field(ge=0, exclude_if=lambda value: value is None)] = None

    @model_validator(mode="after")
    def _first_within_window(self) -> "LoggedLabel":
        if self.first_after_s is not None and self.first_after_s >= self.window_s:
            raise ValueError("first_after_s must be below window_s")
        return self


class LogSection(Options):
    """The `log` section: which returned items were seen, and how events become labels.

    `labels`: by label column. An event that is logged more than `lateness_s` after its time may be missed: a window is
    closed that long after its end. Clocks of callers may differ from the service's by `clock_tolerance_s`. A join of
    fewer than `min_join_rate` of the events with an exposure is refused.
    """

    seen: SeenRule
    labels: dict[str, LoggedLabel]
    lateness_s: Annotated[float, Field(ge=0)] = 3600.0
    clock_tolerance_s: Annotated[float, Field(ge=0)] = 300.0
    min_join_rate: Annotated[float, Field(ge=0, le=1)] = 0.5
