"""The base of all option sections of a recipe: a strict model class, and the usual types of fields."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Column = Annotated[str, Field(min_length=1)]
Hidden = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]  # widths of hidden layers
Experts = Annotated[int, Field(ge=1, le=64)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


class Options(BaseModel):
    """The options in a section of a recipe: immutable, an unknown key is an error, and numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
