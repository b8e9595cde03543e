"""The fixtures that the training tests share: small tables and recipes for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from small_tables import RECIPE, make_tables, merged, write_tables

from models.recipe import Recipe, parse_recipe


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    return make_tables()


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Callable[..., Recipe]:
    """Write tables to `tmp_path/data` and return a recipe over them; `changes` are given by dotted paths."""

    def make(tables: dict[str, pd.DataFrame] | None = None, changes: dict[str, Any] | None = None) -> Recipe:
        folder = write_tables(tmp_path / "data", tables or make_tables())
        return parse_recipe(merged(RECIPE, {"data.dir": str(folder)} | (changes or {})), "the test")

    return make


@pytest.fixture
def tiny_recipe_text() -> str:
    """The recipe as YAML, for tests that run a command in a process of its own."""
    return yaml.safe_dump(RECIPE)
