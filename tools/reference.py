"""Writes the reference pages of settings, routes, metrics and manifest from the code: `python -m tools.reference`.

The page of recipe keys is made by models/recipe_reference.py.
"""

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from fastapi import FastAPI

from funnelrank import __version__
from models.recipe_reference import sections
from service.api.application import Bypass, build
from service.api.services import Services
from service.bundle.manifest import Manifest
from service.metrics.metrics import Metrics
from service.settings import Settings
from service.settings_help import described

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"
_MADE = "This page is made by `python -m tools.reference`."


def settings_page() -> str:
    """Every environment variable, as `funnelrank serve --help` lists it."""
    head = f"# Settings\n\nThe service reads these variables; `funnelrank serve --help` lists them too. {_MADE}\n"
    rows = ["| variable | default | unit | what it is |", "|---|---|---|---|"]
    for line in described().splitlines():
        # The columns of the help: variable, default, [unit], description with bounds.
        names, _, rest = line.strip().partition("[")
        variable, _, default = names.strip().partition(" ")
        unit, _, text = rest.partition("] ")
        rows.append(f"| `{variable}` | {_code(default.strip())} | {unit} | {_cell(text)} |")
    return "\n".join([head, *rows]) + "\n"


def http_page() -> str:
    """Every route with its answers, from the OpenAPI document."""
    document = _openapi()
    head = (
        "# HTTP\n\nA running service has this with every field at `/docs`, and as OpenAPI at `/openapi.json`; "
        "neither loads anything from another site. Errors are `application/problem+json` (RFC 9457) with a `code`. "
        f"{_MADE}\n"
    )
    parts = [head]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(_route(method.upper(), path, operation))
    return "\n".join(parts)


def _openapi() -> dict[str, Any]:
    """Return the document of an application that is never started: only its routes are asked."""
    parts: dict[str, Any] = {part.name: None for part in fields(Services)}
    services = SimpleNamespace(**parts | {"settings": Settings()})
    application = build(cast("Services", services), cast("Any", None), __version__)
    app = cast("FastAPI", cast("Bypass", application).app)
    return app.openapi()


def _route(method: str, path: str, operation: Mapping[str, Any]) -> str:
    text = operation.get("description") or operation.get("summary", "")
    body = (
        operation.get("requestBody", {})
        .get("content", {})
        .get("application/json", {})
        .get("schema", {})
        .get("$ref", "")
    )
    lines = [f"## {method} {path}\n", text.strip() + "\n"]
    if body:
        lines.append(f"Body: `{body.rpartition('/')[2]}`.\n")
    parameters = [f"`{one['name']}` ({one['in']})" for one in operation.get("parameters", ())]
    if parameters:
        lines.append(f"Parameters: {', '.join(parameters)}.\n")
    lines += ["| status | answer |", "|---|---|"]
    lines += [
        f"| {status} | {_cell(answer['description'])} |" for status, answer in sorted(operation["responses"].items())
    ]
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """Every metric with its type and labels."""
    head = f"# Metrics\n\n`GET /metrics` gives these to Prometheus. {_MADE}\n"
    rows = ["| metric | type | labels | what it is |", "|---|---|---|---|"]
    collectors = vars(Metrics()._define.registry)["_collector_to_names"]
    for collector in sorted(collectors, key=lambda one: str(one._name)):
        name = f"{collector._name}_total" if collector._type == "counter" else collector._name
        labels = ", ".join(f"`{label}`" for label in collector._labelnames)
        rows.append(f"| `{name}` | {collector._type} | {labels} | {_cell(collector._documentation)} |")
    return "\n".join([head, *rows]) + "\n"


def manifest_page() -> str:
    """Every key of a bundle's manifest."""
    head = f"# Manifest keys\n\n`manifest.json` describes a model bundle; `funnelrank export` writes it. {_MADE}\n"
    return "\n".join([head, *sections(Manifest.model_json_schema(), "The whole file")])


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PAGES = {
    "settings.md": settings_page,
    "http.md": http_page,
    "metrics.md": metrics_page,
    "manifest.md": manifest_page,
}


def main(arguments: list[str] | None = None) -> int:
    """Write the pages into the named folder, or to their place in the docs."""
    given = sys.argv[1:] if arguments is None else arguments
    folder = Path(given[0]) if given else FOLDER
    for name, page in PAGES.items():
        (folder / name).write_text(page())
        print(folder / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
