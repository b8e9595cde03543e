"""Owns how a refused recipe is explained: where in the YAML (or which --set option) the fault stands, and the nearest valid name."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from models.errors import nearest

Location = tuple[str | int, ...]
TAGS = ("type", "by")  # the keys whose value says which kind of section it is


@dataclass
class Places:
    """Per location (`("tasks", 0, "label")`) of a recipe: its origin, `file:line` or the --set option, and a scalar's text."""

    name: str
    origins: dict[Location, str] = field(default_factory=dict)
    scalars: dict[Location, str] = field(default_factory=dict)
    repeated: list[Location] = field(default_factory=list)

    def add(self, node: yaml.Node | None, location: Location, origin: str | None = None) -> None:
        """Note a node and all below it; `origin` instead of the file and line for what an option sets."""
        if isinstance(node, yaml.MappingNode):
            self._add_mapping(node, location, origin)
        elif isinstance(node, yaml.SequenceNode):
            for i, element in enumerate(node.value):
                self.origins[(*location, i)] = origin or self._line(element)
                self.add(element, (*location, i), origin)
        elif isinstance(node, yaml.ScalarNode):
            self.scalars[location] = node.value

    def add_plain(self, value: object, location: Location) -> None:
        """Note a value that came from no file, and all below it, with the name as their origin."""
        if location:
            self.origins[location] = self.name
        inside = (
            value.items()
            if isinstance(value, Mapping)
            else enumerate(value)
            if isinstance(value, list | tuple)
            else None
        )
        if inside is None:
            self.scalars[location] = str(value)
        for part, element in inside or ():
            self.add_plain(element, (*location, part))

    def over(self, base: "Places", replaced: Collection[Location]) -> "Places":
        """These places laid over those of the recipe that this one extends; of a `replaced` location nothing of the base's stays."""

        def left(of_base: Mapping[Location, str]) -> dict[Location, str]:
            return {place: text for place, text in of_base.items() if not any(place[: len(r)] == r for r in replaced)}

        return Places(self.name, left(base.origins) | self.origins, left(base.scalars) | self.scalars)

    def _add_mapping(self, node: yaml.MappingNode, location: Location, origin: str | None) -> None:
        seen = set()
        for key, value in node.value:
            below = (*location, str(key.value))
            if below in seen:
                self.repeated.append(below)
            seen.add(below)
            self.origins[below] = origin or self._line(key)
            self.add(value, below, origin)

    def _line(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"

    def known(self, location: Location) -> Location:
        """The part of a location of pydantic's that the file has; pydantic also puts the tags of unions there."""
        found: Location = ()
        tagged: Location | None = None
        for part in location:
            if tagged != found and any(self.scalars.get((*found, tag)) == part for tag in TAGS):
                tagged = found
            elif (*found, part) in self.origins:
                found = (*found, part)
        return found

    def word(self, text: str, section: Location) -> Location | None:
        """The first place inside a section where `text` stands as a value or a key."""
        inside = [place for place in self.origins if place[: len(section)] == section]
        values = [
            place for place in inside if self.scalars.get(place) == text and place not in (("name",), ("description",))
        ]
        return next(iter([*values, *(place for place in inside if place[-1] == text)]), None)

    def origin(self, location: Location) -> str:
        """`file:line` of the innermost part of a location that is known; the file alone for the whole recipe."""
        return self.origins.get(self.known(location), self.name)


def located(message: str, places: Places) -> str:
    """A message of the form `section.key: ...` (any that quotes a word of the recipe) with the origin of its subject in front."""
    section = _subject(message, places)
    quoted = re.search(r"'([^']+)'", message)
    place = places.word(quoted[1], places.known(section)) if quoted else None
    if place is None and not section:
        return f"{places.name}: {message}"
    return f"{places.origin(place or section)}: {message}"


def _subject(message: str, places: Places) -> Location:
    """What a message of the form `section.key: ...` is about; nothing where the recipe has no such section."""
    opening = re.match(r"([a-z_]+(?:\.[a-z_0-9]+)*): ", message)
    section: Location = tuple(opening[1].split(".")) if opening else ()
    return section if section[:1] in places.origins else ()


def explained(errors: Collection[ErrorDetails], model: type[BaseModel], places: Places) -> Iterator[str]:
    """One line per error of pydantic's: origin, dotted place, what is wrong, and the nearest valid name."""
    for error in errors:
        location = tuple(error["loc"])
        if error["type"] == "too_short" and error["input"]:
            continue  # only because its elements were refused
        problem = _problem(error, model)
        if error["type"] == "union_tag_invalid":
            location = (*location, error["ctx"]["discriminator"].strip("'"))
        elif error["type"] == "value_error":
            quoted = re.search(r"'([^']+)'", problem)
            word = places.word(quoted[1], places.known(location or _subject(problem, places))) if quoted else None
            if word is not None:
                yield f"{places.origin(word)}: {_dotted(places, location, problem)}"
                continue
        yield f"{places.origin(location)}: {_dotted(places, location, problem)}"


def _dotted(places: Places, location: Location, problem: str) -> str:
    """`section.key: problem`; the last part is named even where the file does not have it, since then it is what is missing."""
    known = places.known(location[:-1])
    tag = any(places.scalars.get((*known, name)) == str(location[-1]) for name in TAGS) if location else False
    shown = ".".join(str(part) for part in (*known, *(() if tag else location[-1:])))
    return f"{shown}: {problem}" if shown else problem


def _problem(error: ErrorDetails, model: type[BaseModel]) -> str:
    location = tuple(error["loc"])
    given = error["input"]
    context: Mapping[str, Any] = error.get("ctx", {})
    if error["type"] == "extra_forbidden":
        return f"'{location[-1]}' is not an option here{nearest(location[-1], options_at(model, location[:-1]))}"
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "union_tag_invalid":
        return f"'{context['tag']}' is unknown{nearest(context['tag'], _quoted(context['expected_tags']))}"
    if error["type"] == "union_tag_not_found":
        return f"says no {context['discriminator']}, which tells what it is"
    if error["type"] == "literal_error":
        return f"'{given}' is unknown{nearest(given, _quoted(context['expected']))}"
    message = error["msg"].removeprefix("Value error, ")
    if unknown := re.fullmatch(r"(.*'([^']+)'.*); known: (.*)", message):
        return unknown[1] + nearest(unknown[2], unknown[3].split(", "))
    shown = isinstance(given, str | int | float) and error["type"] != "value_error"
    return f"{message}, found {given!r}" if shown else message


def _quoted(names: str) -> list[str]:
    return re.findall(r"'([^']*)'", names)


def options_at(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that the section at a location of pydantic's may have."""
    kind: Any = model
    for part in location:
        kind = _inside(_plain(kind), part)
    kind = _plain(kind)
    return list(kind.model_fields) if _is_section(kind) else []


def _plain(kind: Any) -> Any:
    """A type without Annotated and None; a union of several stays a tuple of its members."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        members = [_plain(member) for member in get_args(kind) if member is not NoneType]
        return members[0] if len(members) == 1 else tuple(members)
    return kind


def _inside(kind: Any, part: str | int) -> Any:
    if isinstance(kind, tuple):
        return next((member for member in kind if _is_section(member) and _has_tag(member, part)), None)
    if _is_section(kind):
        found = kind.model_fields.get(part)
        return found.annotation if found else None
    arguments = get_args(kind)
    if get_origin(kind) is dict:
        return arguments[1]
    return arguments[0] if arguments else None


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _has_tag(member: type[BaseModel], tag: str | int) -> bool:
    fields = [member.model_fields[name].annotation for name in TAGS if name in member.model_fields]
    return any(get_origin(kind) is Literal and tag in get_args(kind) for kind in fields)
