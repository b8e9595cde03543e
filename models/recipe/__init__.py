"""The recipe: the YAML file that defines a model's features, tasks and architecture, and its training."""

from models.errors import RecipeError
from models.recipe.loading import load_recipe, parse_recipe, with_places
from models.recipe.recipe import Recipe

__all__ = ["Recipe", "RecipeError", "load_recipe", "parse_recipe", "with_places"]
