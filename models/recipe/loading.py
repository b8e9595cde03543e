"""Loads a recipe from YAML or from a plain mapping; errors have their place."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from features.model_types import misread_truths
from models.errors import Fault, RecipeError
from models.recipe.explain import faults_of
from models.recipe.file import read_recipe
from models.recipe.places import Places
from models.recipe.recipe import Recipe


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Load the recipe of a YAML file and of the files it `extends`, with `section.key=value` overrides applied.

    Raises RecipeError with one fault per bad place: its file and line (or its override) and the nearest valid name.
    """
    raw, places = read_recipe(path, overrides)
    return _validated(raw, places)


def parse_recipe(raw: dict[str, Any], origin: str) -> Recipe:
    """Make a recipe from a plain mapping; error messages begin with `origin`.

    Raises RecipeError with one fault per bad place.
    """
    places = Places(origin)
    places.add_plain(raw, ())
    return _validated(raw, places)


def with_places(error: RecipeError, path: Path, overrides: tuple[str, ...] = ()) -> RecipeError:
    """Add to an error that occurred after the recipe was read the file and line (or the override) of each fault."""
    if all(fault.place for fault in error.faults):
        return error
    places = read_recipe(path, overrides)[1]
    return RecipeError.of(fault.at(fault.place or places.place_of_fault(fault)) for fault in error.faults)


def _validated(raw: dict[str, Any], places: Places) -> Recipe:
    misread = [*misread_truths(Recipe, raw, places.scalars)]
    if misread:
        faults = (Fault(str(truth), truth.location) for truth in misread)
        raise RecipeError.of(fault.at(places.place_of(fault.location)) for fault in faults)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise RecipeError.of(faults_of(error.errors(), Recipe, places)) from None
