"""Owns a recipe's YAML: one mapping out of the file, what it extends and the --set options, which knows where each part stands."""

import os
from pathlib import Path
from typing import Any

import yaml

from models.errors import RecipeError, nearest
from models.recipe.errors import TAGS, Location, Places

EXTENDS = "extends"
SEARCH = "tuning"  # not taken over: its space is that of the other recipe's trunk


def read_recipe(path: Path, overrides: tuple[str, ...] = ()) -> tuple[dict[str, Any], Places]:
    """The whole mapping, what it extends included, with `section.key=value` overrides on top. Raises RecipeError."""
    raw, places = _with_base(path, ())
    for override in overrides:
        _set(raw, override, places)
    return raw, places


def _with_base(path: Path, chain: tuple[Path, ...]) -> tuple[dict[str, Any], Places]:
    """A file over the one that it extends, relative to itself; `chain`: the files that led here."""
    raw, places = _read(path)
    if EXTENDS not in raw:
        return raw, places
    named = raw.pop(EXTENDS)
    where = f"{places.origin((EXTENDS,))}: {EXTENDS}"
    if not isinstance(named, str):
        raise RecipeError(f"{where}: name one file, relative to this one, as in 'extends: kuairand-mmoe.yaml'")
    base = Path(os.path.normpath(path.parent / named))
    chain = (*chain, Path(os.path.normpath(path)))
    if base in chain:
        raise RecipeError(f"{where}: a circle: {' extends '.join(map(str, (*chain, base)))}")
    if not base.is_file():
        beside = sorted(p.name for p in base.parent.glob("*.yaml"))
        raise RecipeError(f"{where}: no file '{base}'{nearest(base.name, beside)}")
    below, places_below = _with_base(base, chain)
    below.pop(SEARCH, None)
    replaced: list[Location] = []
    return _laid_over(below, raw, (), replaced), places.over(places_below, replaced)


def _laid_over(
    base: dict[str, Any], own: dict[str, Any], location: Location, replaced: list[Location]
) -> dict[str, Any]:
    """Mappings merge; lists, scalars and a mapping of another `type` (or `by`) replace, and their locations go to `replaced`."""
    whole = dict(base)
    for key, value in own.items():
        below = base.get(key)
        if (
            isinstance(value, dict)
            and isinstance(below, dict)
            and all(value.get(tag, below.get(tag)) == below.get(tag) for tag in TAGS)
        ):
            whole[key] = _laid_over(below, value, (*location, str(key)), replaced)
        else:
            whole[key] = value
            replaced.append((*location, str(key)))
    return whole


def _read(path: Path) -> tuple[dict[str, Any], Places]:
    places = Places(str(path))
    try:
        text = path.read_text()
        raw = yaml.safe_load(text)
        places.add(yaml.compose(text, Loader=yaml.SafeLoader), ())
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file; the recipes that come along are in models/recipes/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not YAML: {error}") from None
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a recipe is a mapping with 'name', 'data', 'features', 'tasks', 'model'")
    for location in places.repeated:
        raise RecipeError(
            f"{places.origin(location)}: {'.'.join(map(str, location))}: this key stands here twice; only one can count"
        )
    return raw, places


def _set(raw: dict[str, Any], override: str, places: Places) -> None:
    path, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override}: write section.key=value, as in training.epochs=2")
    *sections, key = path.split(".")
    target = raw
    location = tuple(path.split("."))
    for i, section in enumerate(sections):
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise RecipeError(f"--set {override}: '{section}' is not a section")
        places.origins.setdefault(location[: i + 1], f"--set {override}")
    try:
        target[key] = yaml.safe_load(value)
        node = yaml.compose(value, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        raise RecipeError(f"--set {override}: '{value}' is not YAML") from None
    places.origins[location] = f"--set {override}"
    places.add(node, location, f"--set {override}")
