"""The section `data` of a recipe: the tables, their columns, and how impressions are split into parts."""

import os
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from models.errors import RecipeError
from models.options import Column, Name, Options

# Of the section `data`: where the tables are and how they are read, not what is in them.
WHERE_DATA_LIES = {"dir", "fallback", "how_to_get", "memory_gib", "processes"}
MEMORY_GIB = 4.0
COUNTER_OPTIONS = ("scene", "arrived_ms", "counter_lag_s")
USER_ROW = "user_row"
ITEM_ROW = "item_row"
LOG1P = "log1p("  # opens a label that is the logarithm of 1 + a column


class TimeSplit(Options):
    """Splits impressions by time: each part is [from, to), ISO 8601 with an offset."""

    by: Literal["time"]
    train: tuple[datetime, datetime]
    validation: tuple[datetime, datetime]
    test: tuple[datetime, datetime]

    @field_validator("train", "validation", "test")
    @classmethod
    def _has_offset(cls, value: tuple[datetime, datetime]) -> tuple[datetime, datetime]:
        if any(t.tzinfo is None for t in value):
            raise ValueError("give times an offset, as in 2022-05-01T00:00:00+08:00")
        if value[0] >= value[1]:
            raise ValueError("the part ends before it starts")
        return value

    @model_validator(mode="after")
    def _in_order(self) -> "TimeSplit":
        if not (self.train[1] <= self.validation[0] and self.validation[1] <= self.test[0]):
            raise ValueError("train, validation and test must follow each other in time without overlap")
        return self


class ColumnSplit(Options):
    """Splits impressions by the values of one of their columns, such as a day; other values are left out."""

    by: Literal["column"]
    column: Column
    train: tuple[str | int, ...] = ("train",)
    validation: tuple[str | int, ...] = ("validation",)
    test: tuple[str | int, ...] = ("test",)

    @model_validator(mode="after")
    def _disjoint(self) -> "ColumnSplit":
        values = [*self.train, *self.validation, *self.test]
        for value in values:
            if values.count(value) > 1:
                raise RecipeError(f"the value {value!r} is in two parts", name=str(value))
        return self


class DataSection(Options):
    """The `data` section: the folder of the tables, the columns of ids and time, and the split of impressions.

    `dir` is tried first, then `fallback` (the sample in the repository); `how_to_get` says how to get the data if
    neither exists. A table is a file, or a folder, a pattern or a URI of several (docs/your-own-data.md). A behaviour
    is visible to an impression if it is more than `behaviour_lag_s` seconds older; with 0, it must be strictly older.
    `request_id`: the column that has equal values for impressions shown together as one list; ranking metrics are then
    computed per list. `served`: the tables come from `funnelrank join` and hold each row as it was served; `user_row`
    and `item_row` then name the rows of users and items in place of the ids. `scene`: the column of the impressions
    that counters by scene read. `arrived_ms`: the column of impressions and behaviours with the time at which the
    service received them, in milliseconds; without it a row counts in counters `counter_lag_s` seconds after its own
    time (null: `behaviour_lag_s`). `weight`: the column of the impressions that says how much each counts in the
    losses; `task_weights`: by output, the column that its loss reads in place of that one (docs/sample-weights.md).
    `memory_gib`: what encoding may take in memory; what is larger goes through the disk. `processes`: how many encode
    (null: one per core).
    """

    dir: str
    fallback: str | None = None
    how_to_get: str | None = None
    impressions: str = "impressions.parquet"
    users: str | None = "users.parquet"
    items: str | None = "items.parquet"
    behaviours: str | None = "behaviours.parquet"
    user_id: Column = "user_id"
    item_id: Column = "item_id"
    time_ms: Column = "time_ms"
    request_id: Column | None = None
    served: bool = False
    scene: Column | None = None
    arrived_ms: Column | None = None
    counter_lag_s: Annotated[float | None, Field(ge=0)] = None
    behaviour_lag_s: Annotated[float, Field(ge=0)] = 0.0
    split: Annotated[TimeSplit | ColumnSplit, Field(discriminator="by")]
    weight: Annotated[Column | None, Field(exclude_if=lambda value: value is None)] = None
    task_weights: Annotated[dict[Name, Column], Field(exclude_if=lambda value: not value)] = Field(default_factory=dict)
    memory_gib: Annotated[float, Field(gt=0, exclude_if=lambda value: value == MEMORY_GIB)] = MEMORY_GIB
    processes: Annotated[int | None, Field(ge=1, exclude_if=lambda value: value is None)] = None

    @property
    def threads(self) -> int:
        """How many processes or threads encode."""
        return self.processes or len(os.sched_getaffinity(0))

    @property
    def memory_bytes(self) -> int:
        """The memory that encoding may take for its rows, beside the programs themselves."""
        return round(self.memory_gib * (1 << 30))

    @property
    def weight_columns(self) -> tuple[str, ...]:
        """Every column of weights, without duplicates, in order."""
        columns = [self.weight, *self.task_weights.values()]
        return tuple(dict.fromkeys(column for column in columns if column is not None))

    @property
    def user_row(self) -> str:
        """The column by which impressions and behaviours name a row of the users."""
        return USER_ROW if self.served else self.user_id

    @property
    def item_row(self) -> str:
        """The column by which impressions and behaviours name a row of the items."""
        return ITEM_ROW if self.served else self.item_id


def without_unset(section: dict[str, Any]) -> dict[str, Any]:
    """A dumped section without options of counters that are not set."""
    return {name: value for name, value in section.items() if name not in COUNTER_OPTIONS or value is not None}


def source_column(label: str) -> str:
    """Return the column that a label is read from: for `log1p(column)` that column, else the label itself."""
    if label.startswith(LOG1P) and label.endswith(")"):
        return label.removeprefix(LOG1P).removesuffix(")")
    return label
