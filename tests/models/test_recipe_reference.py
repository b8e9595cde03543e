"""Tests the reference page of recipe keys: it is current, names every key, and its links are valid."""

import re
from pathlib import Path

from models.recipe import Recipe
from models.recipe_reference import PAGE, main, page

ROOT = Path(__file__).parents[2]


def test_the_page_is_current():
    assert (ROOT / PAGE).read_text() == page(), "run `python -m models.recipe_reference`"


def test_every_key_of_the_recipe_stands_on_it():
    text = page()
    schema = Recipe.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        for key in part.get("properties", {}):
            assert f"| `{key}` |" in text


def test_a_mapping_says_what_its_values_are():
    text = page()
    assert "| `hash_buckets` | mapping of names to (whole number, >= 2, <= 2000000000) | `{}` |" in text
    assert "mapping of names to (anything)" not in text


def test_every_link_leads_to_a_heading():
    text = page()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    anchors = {"".join(c for c in h.lower() if c.isalnum() or c in " -_").replace(" ", "-") for h in headings}
    links = set(re.findall(r"\(#([^)]*)\)", text))
    assert links and links <= anchors


def test_the_command_writes_it(tmp_path, capsys):
    assert main([str(tmp_path / "new" / "recipe.md")]) == 0
    assert (tmp_path / "new" / "recipe.md").read_text() == page()
    assert "recipe.md" in capsys.readouterr().out
