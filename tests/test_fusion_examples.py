"""Tests the fusion files in sample/: each can be used unchanged with the recipe that it names."""

import re
from pathlib import Path

import pytest

from models.network.build import build_structures
from models.recipe import load_recipe
from service.fusion.profiles import read_profiles

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "sample").glob("fusion-*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_weighs_only_scores_that_its_recipe_has(path: Path) -> None:
    named = re.search(r"models/recipes/\S+\.yaml", path.read_text())
    assert named
    recipe = load_recipe(ROOT / named[0])
    scores = {o.name for structure in build_structures(recipe) for o in structure.outputs}
    for profile in read_profiles(path).profiles.values():
        assert set(profile.weights) <= scores
