"""The recipe: the YAML file that says what a model reads, predicts and is made of, and how it is trained."""

from models.errors import RecipeError
from models.recipe.loading import load_recipe, parse_recipe, with_places
from models.recipe.recipe import Recipe

__all__ = ["Recipe", "RecipeError", "load_recipe", "parse_recipe", "with_places"]
