"""Writes the reference page of recipe keys from the recipe's classes: `python -m models.recipe_reference [PAGE.md]`."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.recipe import Recipe

Parts = Mapping[str, Mapping[str, Any]]
PAGE = Path("docs/reference/recipe.md")
HEADING = """# Recipe keys

A recipe is a YAML file. It may `extends: other.yaml` and override single keys; `--set section.key=value` overrides them
on the command line. Unknown keys are refused. This page is made by `python -m models.recipe_reference`.
"""
LIMITS = (
    ("minimum", ">= {}"),
    ("exclusiveMinimum", "> {}"),
    ("maximum", "<= {}"),
    ("exclusiveMaximum", "< {}"),
    ("minItems", "at least {} of them"),
    ("maxItems", "at most {} of them"),
)


def page() -> str:
    """Return the whole page: one section per part of the recipe, in the order of their first mention."""
    return "\n".join([HEADING, *sections(Recipe.model_json_schema(), "The whole file")])


def sections(schema: Mapping[str, Any], title: str) -> list[str]:
    """Return one section for a JSON schema of pydantic, and one for each of its parts."""
    parts = schema["$defs"]
    first = f"## {title}\n\n{_described(schema)}{_table(schema, parts)}"
    return [first, *(_section(parts[name], name, parts) for name in _in_order(schema))]


def _section(part: Mapping[str, Any], name: str, parts: Parts) -> str:
    return f"## {_title(part, name)}\n\n{_described(part)}{_table(part, parts)}"


def _in_order(schema: Mapping[str, Any]) -> list[str]:
    """Return the names of all parts, without duplicates, depth first."""
    names: dict[str, None] = {}

    def visit(part: Mapping[str, Any]) -> None:
        for name in _references(part):
            if name not in names:
                names[name] = None
                visit(schema["$defs"][name])

    visit({key: value for key, value in schema.items() if key != "$defs"})
    return list(names)


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value.rpartition("/")[2]
            elif key != "discriminator":
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _title(part: Mapping[str, Any], name: str) -> str:
    """Return the part's name, and the required value of its `type` or `by`."""
    for key in ("type", "by"):
        constant = part.get("properties", {}).get(key, {}).get("const")
        if constant is not None:
            return f"{name} (`{key}: {constant}`)"
    return name


def _anchor(part: Mapping[str, Any], name: str) -> str:
    """Return the address of a heading, in the form of GitHub and the docs site."""
    characters = [c for c in _title(part, name).lower() if c.isalnum() or c in " -_"]
    return "".join(characters).replace(" ", "-")


def _described(part: Mapping[str, Any]) -> str:
    text = part.get("description", "").strip()
    return f"{text}\n\n" if text else ""


def _table(part: Mapping[str, Any], parts: Parts) -> str:
    properties = part.get("properties", {})
    required = part.get("required", [])
    rows = ["| key | value | default |", "|---|---|---|"]
    for key, value in properties.items():
        # The schema has no default for what a factory makes: an empty mapping.
        empty: dict[str, Any] | None = {} if value.get("type") == "object" else None
        default = "required" if key in required else f"`{json.dumps(value.get('default', empty), ensure_ascii=False)}`"
        if len(default) > 60:
            default = "that section's defaults"
        rows.append(f"| `{key}` | {_kind(value, parts)} | {default} |")
    return "\n".join(rows) + "\n" if properties else ""


def _kind(value: Mapping[str, Any], parts: Parts) -> str:
    """Return a value's type with its limits, and a link if it is a part with its own section."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{_anchor(parts[name], name)})"
    for choice in ("anyOf", "oneOf"):
        if choice in value:
            return " or ".join(_kind(one, parts) for one in value[choice])
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return " or ".join(f"`{one}`" for one in value["enum"])
    if "prefixItems" in value:
        return f"list of {len(value['prefixItems'])}: {_kind(value['prefixItems'][0], parts)}"
    limits = [text.format(value[key]) for key, text in LIMITS if key in value]
    return ", ".join([_plain(value, parts), *limits])


def _plain(value: Mapping[str, Any], parts: Parts) -> str:
    if value.get("type") == "array":
        inner = value.get("items") or {}
        return f"list of ({_kind(inner, parts)})"
    if value.get("type") == "object":
        # A name with a pattern is a property of its own in the schema; `true` stands for values of any kind.
        patterns = value.get("patternProperties") or {}
        values: Any = value.get("additionalProperties") or next(iter(patterns.values()), {})
        return f"mapping of names to ({_kind(values if isinstance(values, dict) else {}, parts)})"
    names = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
        "null": "null",
    }
    plain = names.get(value.get("type", ""), "anything")
    return "time, ISO 8601 with offset" if value.get("format") == "date-time" else plain


def main(arguments: list[str] | None = None) -> int:
    """Write the page to the named file, or to its place in the docs."""
    names = sys.argv[1:] if arguments is None else arguments
    out = Path(names[0]) if names else PAGE
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page())
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
