"""Defines conditions: which candidates a rule means, by one feature."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

Value = Annotated[str, Strict(), Field(max_length=256)] | Annotated[int, Strict()] | Annotated[bool, Strict()]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class StrictModel(BaseModel):
    """The base of every part of the rules document: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Condition(StrictModel):
    """Which candidates a rule means, by one feature.

    `one_of` lists values of a categorical feature; `at_least` and `below` bound a numeric one. A missing value never
    matches.
    """

    feature: Name
    one_of: Annotated[tuple[Value, ...] | None, Field(min_length=1, max_length=1000)] = None
    at_least: Number | None = None
    below: Number | None = None

    @model_validator(mode="after")
    def _check(self) -> "Condition":
        numeric = self.at_least is not None or self.below is not None
        if numeric == (self.one_of is not None):
            raise ValueError("give one_of for a categorical feature, or at_least and below for a numeric one")
        if self.at_least is not None and self.below is not None and self.at_least >= self.below:
            raise ValueError("at_least is not below `below`: no value matches")
        return self
