"""Trains recipes over several seeds, and tabulates the test metrics beside reference values."""

import json
import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from features.files.writing import write_whole
from features.within_request import ComparedColumns
from models.data.cache import open_data
from models.data.tables import data_folder, table_hashes, tables_of
from models.network.build import build_model
from models.recipe import Recipe, RecipeError, load_recipe, with_places
from models.recipe.sections.data import WHERE_DATA_LIES
from models.reports.results import group_of, group_tables, listed_groups, row_of
from models.train import train
from models.training.checkpoint import write_json
from models.training.diagnostics.tuned import tuned_models
from models.training.outcome import METRICS_FILE, RECIPE_FILE
from models.training.transfer import narrowed
from tables import TableError

RECIPES = Path(os.path.relpath(Path(__file__).with_name("recipes")))
ABOVE_IS_KEPT = "<!-- made by python -m models.benchmark; the text above stays -->"
# Keys of a recipe that do not affect the weights.
NOT_TRAINED: dict[str, Any] = {"description": True, "tuning": True, "rule_features": True, "data": WHERE_DATA_LIES}


def measured_runs(
    path: Path, seeds: int, runs: Path, cache: Path, overrides: tuple[str, ...], device: str = "cpu"
) -> Iterator[dict[str, Any]]:
    """Return the metrics of one recipe for seeds 1 to `seeds`; a finished run of the same recipe and tables is reused.

    Raises RecipeError with its place in the recipe, and whatever training raises.
    """
    for seed in range(1, seeds + 1):
        settings = (*(o.replace("{seed}", str(seed)) for o in overrides), f"training.seed={seed}")
        try:
            recipe = narrowed(load_recipe(path, settings))
            out = runs / f"{recipe.name}-{seed}"
            if not _is_there(out, recipe):
                print(f"{recipe.name}, seed {seed} of {seeds}", file=sys.stderr)
                train(recipe, out, cache=cache, reading_steps=0, device=device)
        except RecipeError as error:
            raise with_places(error, path, settings) from None
        yield json.loads((out / METRICS_FILE).read_text())


def _is_there(out: Path, recipe: Recipe) -> bool:
    """Whether a folder has a finished run of this recipe on tables with the same bytes."""
    if not (out / METRICS_FILE).is_file():
        return False
    try:
        stored = load_recipe(out / RECIPE_FILE)
    except RecipeError:
        return False  # of a time when recipes had other keys
    if stored.model_dump(exclude=NOT_TRAINED) != recipe.model_dump(exclude=NOT_TRAINED):
        return False
    tables = json.loads((out / METRICS_FILE).read_text())["data"]["tables"]
    try:
        return table_hashes(tables_of(recipe, data_folder(recipe.data))) == tables
    except (RecipeError, TableError):
        return False


def with_plain_models(
    recipes: dict[Path, Recipe], measured: dict[Path, list[dict[str, Any]]], seeds: int, runs: Path, cache: Path
) -> None:
    """Add logistic regression and boosted trees, tuned on validation, to the recipes and their results.

    They are fitted once per group of tables and labels and per set of columns that the group's recipes read.
    """
    listed = listed_groups()
    read_by: dict[tuple[str, tuple[str, ...]], Path] = {}
    for path in measured:
        read_by.setdefault((group_of(recipes[path], listed).title, columns_of(recipes[path])), path)
    for path in read_by.values():
        recipe = recipes[path]
        described, fitted = _plain_models(recipe, seeds, runs, cache)
        for name, of_seeds in fitted.items():
            place = path.with_name(f"{path.stem}: {name}")
            recipes[place] = recipe.model_copy(update={"name": f"{name} on the columns of {recipe.name}"})
            measured[place] = [_as_run(one, described) for one in of_seeds[:seeds]]


def _plain_models(
    recipe: Recipe, seeds: int, runs: Path, cache: Path
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """What is known of a recipe's data, and the plain models by name, per seed.

    Fitted ones are stored in `runs` and not fitted again for the same data, outputs and at most as many seeds.
    """
    data = open_data(recipe, cache)
    described = dict(data.described)
    file = runs / f"{recipe.name}-plain-models.json"
    model = build_model(recipe, data.encoding, data.cross_values)
    fitted_on = {"data": described["hash"], "outputs": [output.name for output in model.outputs]}
    if file.is_file():
        stored = json.loads(file.read_text())
        if stored["fitted_on"] == fitted_on and stored["seeds"] >= seeds:
            return described, stored["models"]
    print(f"plain models on the columns of {recipe.name}", file=sys.stderr)
    models = dict(tuned_models(model, data, seeds))
    runs.mkdir(parents=True, exist_ok=True)
    write_json({"fitted_on": fitted_on, "seeds": seeds, "models": models}, file)
    return described, models


def columns_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of the columns that a simple model reads."""
    features = recipe.features
    return (*(f.name for f in features.all_features), *ComparedColumns.of(features).titles)


def _as_run(fitted: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    """Return a plain model's results in the form of metrics.json, as far as a table reads it."""
    return {
        "composition": {"settings": json.dumps(fitted["settings"])},
        "parameters": {"embedding": 0, "dense": 0},
        "speed": {"seconds_per_epoch": fitted["seconds"]},
        "best": {"epoch": 1.0},
        "data": described,
        "parts": {"test": {"outputs": fitted["outputs"], "extra": []}},
    }


def tabulated(
    recipes: dict[Path, Recipe], measured: dict[Path, list[dict[str, Any]]]
) -> tuple[str, list[dict[str, Any]]]:
    """Markdown and plain data of all groups: first the groups of the marks file in its order, then the others."""
    listed = listed_groups()
    groups = {path: group_of(recipes[path], listed) for path in measured}
    ordered = [*listed, *(group for group in groups.values() if group not in listed)]
    tables = []
    plain = []
    for title in dict.fromkeys(group.title for group in ordered):
        rows = [row_of(recipes[path], measured[path]) for path, group in groups.items() if group.title == title]
        if rows:
            group = next(group for group in ordered if group.title == title)
            tables.append(group_tables(group, rows))
            plain.append(group.model_dump(mode="json") | {"rows": rows})
    return "\n".join(tables), plain


def write(out: Path, tables: str, plain: list[dict[str, Any]]) -> None:
    """Write PATH.json and PATH.md; text above the mark in PATH.md stays."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(plain, out.with_suffix(".json"))
    page = out.with_suffix(".md")
    above, with_tables, _ = page.read_text().partition(ABOVE_IS_KEPT) if page.is_file() else ("", "", "")
    write_whole(page, f"{above if with_tables else ''}{ABOVE_IS_KEPT}\n\n{tables}".encode())


def with_data(paths: list[Path], overrides: tuple[str, ...]) -> dict[Path, Recipe]:
    """Return the recipes by file. Prints and skips recipes whose data is missing. Raises RecipeError."""
    with_tables: dict[Path, Recipe] = {}
    for path in paths:
        recipe = narrowed(load_recipe(path, overrides))
        namesake = next((p for p, r in with_tables.items() if r.name == recipe.name), None)
        if namesake:
            raise RecipeError(
                f"{path}: '{recipe.name}' is also the name of {namesake}; their runs would lie in one folder"
            )
        try:
            data_folder(recipe.data)
        except RecipeError as error:
            print(f"left out: {path}: {error}", file=sys.stderr)
            continue
        with_tables[path] = recipe
    return with_tables


def run_benchmark(
    recipes: list[Path],
    seeds: int,
    overrides: tuple[str, ...],
    runs: Path,
    cache: Path,
    out: Path | None,
    baselines: bool = False,
    device: str = "cpu",
) -> list[str]:
    """Train `recipes` (if empty, all of models/recipes), print the tables, and write them to `out` if it is given.

    With `baselines`, the tables include tuned plain models. Returns a line per recipe that failed. Raises RecipeError
    for a recipe that cannot be read.
    """
    measured: dict[Path, list[dict[str, Any]]] = {}
    failures: list[str] = []
    chosen = with_data(recipes or sorted(RECIPES.glob("*.yaml")), overrides)
    # A recipe that fails does not stop the others.
    for path in chosen:
        try:
            for metrics in measured_runs(path, seeds, runs, cache, overrides, device):
                measured.setdefault(path, []).append(metrics)
        except (RuntimeError, ValueError, OSError) as error:
            failures.append(f"failed: {path}: {error}")
            print(failures[-1], file=sys.stderr)
    if baselines:
        with_plain_models(chosen, measured, seeds, runs, cache)
    # Tabulate what could be measured.
    tables, plain = tabulated(chosen, measured)
    if out:
        write(out, tables, plain)
    print(tables)
    return failures


if __name__ == "__main__":  # `python -m models.benchmark` is `funnelrank benchmark`
    sys.argv.insert(1, "benchmark")
    runpy.run_module("funnelrank", run_name="__main__")
