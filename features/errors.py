"""Holds the errors of raw feature values and of feature schemas."""

from collections.abc import Collection

from features.nearest import nearest


class FeatureError(ValueError):
    """A raw value that the schema does not allow.

    `field` names the feature, `message` says what is allowed; both are safe to show to a caller.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class SchemaError(ValueError):
    """A feature schema that cannot be used.

    `location` is the bad key or section inside the schema, `name` the bad value there, `known` the names that are valid
    there.
    """

    def __init__(
        self, problem: str, location: tuple[str | int, ...], name: str | None = None, known: Collection[str] = ()
    ) -> None:
        super().__init__(problem + nearest(name, known) if known else problem)
        self.problem = problem
        self.location = location
        self.name = name
        self.known = tuple(known)
