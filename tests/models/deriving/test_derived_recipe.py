"""Tests recipes with derived features that cannot be computed: the errors name file, line, problem and nearest name."""

import pytest
import yaml

from models.recipe import RecipeError, load_recipe

RATIO = {"name": "per_fan", "type": "ratio", "of": "length", "per": "fans"}
CROSS = {"name": "city_tags", "type": "cross", "of": ["city", "tags"]}
CASES = {
    "unknown feature": (
        [RATIO | {"per": "fanss"}],
        "per: fanss",
        "derived.per_fan.per: there is no feature 'fanss'; did you mean 'fans'?",
    ),
    "circle": (
        [RATIO | {"of": "other"}, RATIO | {"name": "other", "of": "per_fan"}],
        "of: other",
        "derived.per_fan.of: 'other' is listed after 'per_fan'; a derived feature reads only those before it",
    ),
    "itself": ([RATIO | {"of": "per_fan"}], "of: per_fan", "'per_fan' would be computed from itself"),
    "cross of a number": (
        [CROSS | {"of": ["city", "length"]}],
        "- length",
        "derived.city_tags.of: 'length' is numeric; a cross reads categorical or multi_categorical features",
    ),
    "ratio of a category": (
        [RATIO | {"of": "city"}],
        "of: city",
        "derived.per_fan.of: 'city' is categorical; a ratio reads numeric features",
    ),
    "length of a single value": (
        [{"name": "n", "type": "length", "of": "city"}],
        "of: city",
        "'city' is categorical; a length reads multi_categorical features",
    ),
    "name of a feature": (
        [RATIO | {"name": "fans"}],
        "name: fans",
        "derived.fans: a feature 'fans' exists already; names are unique",
    ),
    "name of a derived feature": ([RATIO, RATIO], "name: per_fan", "a feature 'per_fan' exists already"),
    "edges that do not ascend": (
        [{"name": "b", "type": "bucket", "of": "length", "edges": [1, 1]}],
        "edges:",
        "derived.b.edges: they must ascend",
    ),
    "edges that are one float32": (
        [{"name": "b", "type": "bucket", "of": "length", "edges": [1, 1.00000001]}],
        "edges:",
        "derived.b.edges: they must ascend",
    ),
    "unknown derivation": (
        [CROSS | {"type": "cros"}],
        "type: cros",
        "features.derived.0.type: 'cros' is unknown; did you mean 'cross'?",
    ),
    "cross of two lists": (
        [CROSS, CROSS | {"name": "two", "of": ["city_tags", "tags"]}],
        "of:",
        "derived.two.of: at most one list can be crossed",
    ),
    "cross of one feature": ([CROSS | {"of": ["city", "city"]}], "of:", "derived.city_tags.of: a feature occurs twice"),
    "label": ([RATIO | {"per": "like"}], "per: like", "there is no feature 'like'"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_derived_is_refused_with_its_line(tiny_recipe, tmp_path, case):
    derived, at, message = CASES[case]
    recipe = tiny_recipe().model_dump(mode="json", exclude_unset=True)
    recipe["features"]["derived"] = derived
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    with pytest.raises(RecipeError) as refusal:
        load_recipe(path)
    (fault,) = refusal.value.faults
    assert message in str(fault)
    assert fault.place.line is not None
    line = path.read_text().splitlines()[fault.place.line - 1]
    assert at in line, f"line {fault.place.line}: {line}"
