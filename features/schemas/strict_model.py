"""The base of the models of a feature schema, and the names that they allow."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=64)]


class SchemaPart(BaseModel):
    """Refuses unknown keys and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def at_default(value: object) -> bool:
    """Leaves fields with their default value out of the written schema, so that older services can read it."""
    return not value


# Whether a request or write is refused that leaves the feature out or gives null.
Required = Annotated[bool, Field(exclude_if=at_default)]
