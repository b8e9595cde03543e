"""Holds the place of each part of a recipe: the file and line, or the `--set` option that set it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from features.files.strict_yaml import Location, SourcePlace, YamlDocument
from features.model_types import TAGS
from models.errors import Fault

Entry = TypeVar("Entry")


@dataclass
class Places:
    """By location, such as `("tasks", 0, "label")`: the place of each key and element, and the text of each scalar."""

    source: str
    places: dict[Location, SourcePlace] = field(default_factory=dict)
    scalars: dict[Location, str] = field(default_factory=dict)

    @classmethod
    def of(cls, document: YamlDocument) -> "Places":
        """Return the places of a parsed file."""
        return cls(document.source, dict(document.places), dict(document.scalars))

    def add_plain(self, value: object, location: Location) -> None:
        """Add a value that does not come from a file, and all values below it; their place is the source."""
        self.places[location] = SourcePlace(self.source)
        if isinstance(value, Mapping):
            for key, element in value.items():
                self.add_plain(element, (*location, key))
        elif isinstance(value, list | tuple):
            for i, element in enumerate(value):
                self.add_plain(element, (*location, i))
        else:
            self.scalars[location] = str(value)

    def put(self, document: YamlDocument, location: Location) -> None:
        """Replace the value at a location by that of an option, which becomes the place of all its parts."""
        self._remove([location])
        place = SourcePlace(document.source)
        self.places[location] = place
        self.places |= {(*location, *below): place for below in document.places}
        self.scalars |= {(*location, *below): text for below, text in document.scalars.items()}

    def over(self, base: "Places", replaced: Collection[Location]) -> "Places":
        """Merge with the places of the extended recipe, except those at or below a `replaced` location."""
        merged = Places(self.source, dict(base.places), dict(base.scalars))
        merged._remove(replaced)
        merged.places |= self.places
        merged.scalars |= self.scalars
        return merged

    def _remove(self, locations: Collection[Location]) -> None:
        self.places = _without(self.places, locations)
        self.scalars = _without(self.scalars, locations)

    def known(self, location: Location) -> Location:
        """Return the part of pydantic's location that exists in the recipe; pydantic also inserts the tags of
        unions.
        """
        known: Location = ()
        tagged: Location | None = None
        for part in location:
            if tagged != known and any(self.scalars.get((*known, tag)) == part for tag in TAGS):
                tagged = known
            elif (*known, part) in self.places:
                known = (*known, part)
        return known

    def find(self, name: str, section: Location) -> Location | None:
        """Return the first location inside a section with `name` as its value or, if there is none, as its key."""
        free_text = (("name",), ("description",))
        inside = [place for place in self.places if place[: len(section)] == section]
        values = [place for place in inside if self.scalars.get(place) == name and place not in free_text]
        keys = [place for place in inside if place[-1:] == (name,)]
        return next(iter([*values, *keys]), None)

    def place_of(self, location: Location) -> SourcePlace:
        """Return the place of the innermost known part of a location; for the whole recipe, that is the source."""
        return self.places.get(self.known(location), SourcePlace(self.source))

    def place_of_fault(self, fault: Fault) -> SourcePlace:
        """Return the place of the name that a fault concerns, or else of its section."""
        if fault.name is not None:
            location = self.find(fault.name, self.known(fault.location))
            if location is not None:
                return self.place_of(location)
        return self.place_of(fault.location)


def _without(entries: dict[Location, Entry], locations: Collection[Location]) -> dict[Location, Entry]:
    """Return the entries that are not at or below any of the locations."""
    return {
        place: entry
        for place, entry in entries.items()
        if not any(place[: len(location)] == location for location in locations)
    }
