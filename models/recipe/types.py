"""Looks up which keys and values a section of the recipe may have, by pydantic's location."""

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from features.files.strict_yaml import Location
from models.recipe.places import TAGS


def keys_at(model: type[BaseModel], location: Location) -> list[str]:
    """Return the keys that the section at a location may have."""
    section = _type_at(model, location)
    if not _is_section(section):
        return []
    return list(section.model_fields)


def values_at(model: type[BaseModel], location: Location) -> list[str]:
    """Return the words that a value at a location may be: the tags of a union of sections, or the words of a
    Literal.
    """
    kind = _type_at(model, location)
    if isinstance(kind, tuple):
        return [str(tag) for member in kind if _is_section(member) for tag in _tags(member)]
    if get_origin(kind) is Literal:
        return [str(word) for word in get_args(kind)]
    return []


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
        if len(members) > 1:
            return tuple(members)
        return members[0]
    return kind


def _inside(kind: Any, part: str | int) -> Any:
    """Return the type of one key or element of a type."""
    if isinstance(kind, tuple):
        return next((member for member in kind if _is_section(member) and part in _tags(member)), None)
    if _is_section(kind):
        field = kind.model_fields.get(part)
        return field and field.annotation
    arguments = get_args(kind)
    if get_origin(kind) is dict:
        return arguments[1]
    return next(iter(arguments), None)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _tags(member: type[BaseModel]) -> list[Any]:
    """Return the values by which a union distinguishes this section from its others."""
    kinds = [member.model_fields[name].annotation for name in TAGS if name in member.model_fields]
    return [tag for kind in kinds if get_origin(kind) is Literal for tag in get_args(kind)]
