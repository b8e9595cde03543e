"""Reads a recipe's YAML: merges the file, the files that it extends and the `--set` options, and records places."""

import os
from pathlib import Path
from typing import Any

from features.files.strict_yaml import NOT_YAML, Location, SourcePlace, YamlError, parse_yaml, read_yaml
from features.model_types import TAGS
from features.nearest import nearest
from models.errors import Fault, RecipeError
from models.recipe.places import Places

EXTENDS = "extends"
SEARCH = "tuning"  # not inherited: its space belongs to the trunk of the other recipe
NO_RECIPE = "a recipe is a mapping with 'name', 'data', 'features', 'tasks', 'model'"


def read_recipe(path: Path, overrides: tuple[str, ...] = ()) -> tuple[dict[str, Any], Places]:
    """Read the whole mapping, extended files included, with `section.key=value` overrides applied. Raises
    RecipeError.
    """
    raw, places = _with_base(path, ())
    for override in overrides:
        _set(raw, override, places)
    return raw, places


def _refused(message: str, place: SourcePlace, location: Location = ()) -> RecipeError:
    return RecipeError.of([Fault(message, location, place=place)])


def _with_base(path: Path, chain: tuple[Path, ...]) -> tuple[dict[str, Any], Places]:
    """Read a file and merge it over the file that it extends; `chain` has the files that extend this one."""
    raw, places = _read(path)
    if EXTENDS not in raw:
        return raw, places
    base = _base_of(path, raw.pop(EXTENDS), places.place_of((EXTENDS,)), chain)
    below, places_below = _with_base(base, (*chain, Path(os.path.normpath(path))))
    below.pop(SEARCH, None)
    merged, replaced = _laid_over(below, raw, ())
    return merged, places.over(places_below, replaced)


def _base_of(path: Path, named: object, place: SourcePlace, chain: tuple[Path, ...]) -> Path:
    """Return the file that `extends` names. Raises RecipeError if it does not exist or extends this one."""
    if not isinstance(named, str):
        problem = "name one file, relative to this one, as in 'extends: kuairand-mmoe.yaml'"
        raise _refused(f"{EXTENDS}: {problem}", place, (EXTENDS,))
    base = Path(os.path.normpath(path.parent / named))
    chain = (*chain, Path(os.path.normpath(path)))
    if base in chain:
        raise _refused(f"{EXTENDS}: a circle: {' extends '.join(map(str, (*chain, base)))}", place, (EXTENDS,))
    if not base.is_file():
        beside = sorted(p.name for p in base.parent.glob("*.yaml"))
        raise _refused(f"{EXTENDS}: no file '{base}'{nearest(base.name, beside)}", place, (EXTENDS,))
    return base


def _laid_over(base: dict[str, Any], own: dict[str, Any], location: Location) -> tuple[dict[str, Any], list[Location]]:
    """Merge the mapping `own` over `base`; also return the locations where `own` replaces `base` completely.

    Mappings merge; lists, scalars and a mapping of another `type` (or `by`) replace.
    """
    merged = dict(base)
    replaced: list[Location] = []
    for key, value in own.items():
        below = base.get(key)
        inside = (*location, str(key))
        if isinstance(value, dict) and isinstance(below, dict) and _same_kind(value, below):
            merged[key], more = _laid_over(below, value, inside)
            replaced += more
        else:
            merged[key] = value
            replaced.append(inside)
    return merged, replaced


def _same_kind(variant: dict[str, Any], base: dict[str, Any]) -> bool:
    return all(variant.get(tag, base.get(tag)) == base.get(tag) for tag in TAGS)


def _read(path: Path) -> tuple[dict[str, Any], Places]:
    try:
        document = read_yaml(path)
    except FileNotFoundError:
        raise _refused("no such file; models/recipes/ has some to start from", SourcePlace(str(path))) from None
    except OSError as error:
        raise _refused(f"cannot be read: {error}", SourcePlace(str(path))) from None
    except YamlError as error:
        raise _refused(error.message, error.place, error.location) from None
    if not isinstance(document.value, dict):
        raise _refused(NO_RECIPE, SourcePlace(str(path)))
    return document.value, Places.of(document)


def _set(raw: dict[str, Any], override: str, places: Places) -> None:
    """Set one `section.key=value` in the mapping and its places. Raises RecipeError."""
    option = SourcePlace(f"--set {override}")
    path, equals, text = override.partition("=")
    if not equals:
        raise _refused("write section.key=value, as in training.epochs=2", option)
    location: Location = tuple(path.split("."))
    *sections, key = path.split(".")
    target = raw
    for i, section in enumerate(sections):
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise _refused(f"'{section}' is not a section", option, location)
        places.places.setdefault(location[: i + 1], option)
    try:
        document = parse_yaml(text, option.source)
    except YamlError as error:
        problem = f"'{text}' is not YAML" if error.message.startswith(NOT_YAML) else error.message
        raise _refused(problem, option, location) from None
    target[key] = document.value
    places.put(document, location)
