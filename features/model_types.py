"""Looks up which keys and values a section of a pydantic model may have, by pydantic's location."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from features.files.strict_yaml import Location, YamlDocument, YamlError

TAGS = ("type", "by")  # the keys whose value says which kind of section it is


def keys_at(model: type[BaseModel], location: Location) -> list[str]:
    """Return the keys that the section at a location may have."""
    section = _type_at(model, location)
    return list(section.model_fields) if _is_section(section) else []


def values_at(model: type[BaseModel], location: Location) -> list[str]:
    """Return the words that a value may be: the tags of a union of sections, or the words of a Literal."""
    kind = _type_at(model, location)
    if isinstance(kind, tuple):
        return [str(tag) for member in kind if _is_section(member) for tag in _tags(member)]
    return [str(word) for word in get_args(kind)] if get_origin(kind) is Literal else []


@dataclass(frozen=True)
class MisreadTruth:
    """A truth value of a YAML text that stands in the place of a number or a category."""

    location: Location
    problem: str

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.location))}: {self.problem}"


def misread_truths(
    model: type[BaseModel], value: object, texts: Mapping[Location, str], location: Location = ()
) -> Iterator[MisreadTruth]:
    """Yield the truth values (`yes`, `on`, `true`) at and below a location that pydantic would take for 1 or 0.

    `texts` has the text of every scalar. In the place of a category, `true` is one (it has the key of 1), but `yes` and
    `no` are words that YAML changes.
    """
    if isinstance(value, dict):
        for key, below in value.items():
            yield from misread_truths(model, below, texts, (*location, str(key)))
    elif isinstance(value, list):
        for i, below in enumerate(value):
            yield from misread_truths(model, below, texts, (*location, i))
    elif isinstance(value, bool):
        problem = _misread(_type_at(model, location), texts.get(location, str(value)))
        if problem:
            yield MisreadTruth(location, problem)


def refuse_misread_truths(document: YamlDocument, model: type[BaseModel]) -> None:
    """Raise YamlError for the first truth value of a document that pydantic would take for a number."""
    misread = next(misread_truths(model, document.value, document.scalars), None)
    if misread is not None:
        raise YamlError(str(misread), document.place_of(misread.location), misread.location)


def _misread(kind: Any, text: str) -> str | None:
    """Return why a truth value is not a value of a type; None if it may be one."""
    members = kind if isinstance(kind, tuple) else (kind,)
    if str in members and int in members and text.lower() not in ("true", "false"):
        return f"YAML takes {text} without quotes for a truth value: write '{text}'"
    if set(members) <= {int, float}:
        return f"a number is needed, and {text} is a truth value in YAML"
    return None


def _type_at(model: type[BaseModel], location: Location) -> Any:
    kind: Any = model
    for part in location:
        kind = _inside(_plain(kind), part)
    return _plain(kind)


def _plain(kind: Any) -> Any:
    """Remove Annotated and None from a type; a union of several types becomes a tuple of its members."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        members = [_plain(member) for member in get_args(kind) if member is not NoneType]
        return members[0] if len(members) == 1 else tuple(members)
    return kind


def _inside(kind: Any, part: str | int) -> Any:
    """The type of one key or element of a type."""
    if isinstance(kind, tuple):
        sections = [member for member in kind if _is_section(member)]
        tagged = (section for section in sections if part in (*_tags(section), section.__name__))
        return next(tagged, None) or _inside_untagged(kind, part)
    if _is_section(kind):
        return kind.model_fields[part].annotation if part in kind.model_fields else None
    arguments = get_args(kind)
    if get_origin(kind) is dict:
        return arguments[1]
    return next(iter(arguments), None)


def _inside_untagged(kinds: tuple[Any, ...], part: str | int) -> Any:
    """The type of one key or element of a union, of which nothing says which member it is: those of all members."""
    inner = [_plain(_inside(_plain(kind), part)) for kind in kinds if kind is not NoneType]
    flat = [member for kind in inner for member in (kind if isinstance(kind, tuple) else (kind,))]
    known = tuple(dict.fromkeys(member for member in flat if member is not None))
    return known[0] if len(known) == 1 else known or None


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _tags(member: type[BaseModel]) -> list[Any]:
    """The values by which a union tells this section from its others."""
    kinds = [member.model_fields[name].annotation for name in TAGS if name in member.model_fields]
    return [tag for kind in kinds if get_origin(kind) is Literal for tag in get_args(kind)]
