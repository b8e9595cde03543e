"""Defines the error of an invalid recipe: the problem and its place in the recipe."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from features.files.strict_yaml import Location, SourcePlace


@dataclass(frozen=True)
class Fault:
    """One fault of a recipe. `location`: the key or section that it concerns; `name`: the value or key inside it.

    `place` is the file and line, or the `--set` option; None until the fault is matched with the recipe's text.
    """

    message: str
    location: Location = ()
    name: str | None = None
    place: SourcePlace | None = None

    def __str__(self) -> str:
        return self.message if self.place is None else f"{self.place}: {self.message}"

    def at(self, place: SourcePlace) -> "Fault":
        """Return a copy of the fault with its place."""
        return replace(self, place=place)


class RecipeError(ValueError):
    """A recipe that cannot be used.

    It has at least one of `faults`; the message is one line per fault, with its place if known.
    """

    def __init__(self, message: str, location: Location = (), name: str | None = None) -> None:
        super().__init__(message)
        self.faults: tuple[Fault, ...] = (Fault(message, location, name),)

    @classmethod
    def of(cls, faults: Iterable[Fault]) -> "RecipeError":
        """Build one error that lists several faults."""
        faults = tuple(faults)
        error = cls("\n".join(map(str, faults)))
        error.faults = faults
        return error
