"""The fixtures that the training tests share: small tables and recipes over them."""

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
    """A recipe over tables written to `tmp_path/data`; `changes` are dotted paths."""

    def make(tables: dict[str, pd.DataFrame] | None = None, changes: dict[str, Any] | None = None) -> Recipe:
        folder = write_tables(tmp_path / "data", tables or make_tables())
        return parse_recipe(merged(RECIPE, {"data.dir": str(folder)} | (changes or {})), "the test")

    return make


@pytest.fixture
def tiny_recipe_text() -> str:
    """The recipe as YAML, for what runs in a process of its own."""
    return yaml.safe_dump(RECIPE)
