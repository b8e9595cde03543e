"""Owns `python -m models.benchmark`: recipes trained over several seeds, and the tables of what came out beside the marks."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from models.data.cache import DEFAULT_CACHE
from models.data.tables import content_hash, data_folder
from models.recipe.recipe import WHERE_DATA_LIES, Recipe, RecipeError, at_its_line, load_recipe
from models.reports.results import group_of, group_tables, listed_groups, row_of
from models.train import train
from models.training.checkpoint import write_json
from models.training.outcome import METRICS_FILE, RECIPE_FILE
from models.training.transfer import narrowed

RECIPES = Path(os.path.relpath(Path(__file__).with_name("recipes")))
ABOVE_IS_KEPT = "<!-- made by python -m models.benchmark; the text above stays -->"
# What a recipe says that no weight depends on.
NOT_TRAINED: dict[str, Any] = {"description": True, "tuning": True, "data": WHERE_DATA_LIES}

EXAMPLE = """example:
  python -m models.benchmark --out docs/results                                      # every recipe whose data is there, 5 seeds each
  python -m models.benchmark models/recipes/census-*.yaml --seeds 3
"""


def measured_runs(
    path: Path, seeds: int, runs: Path, cache: Path, overrides: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """The metrics of one recipe for seeds 1 to `seeds`; a run that is there already, of the same recipe and tables, is not repeated.

    Raises RecipeError, with its place in the recipe, and what training raises.
    """
    for seed in range(1, seeds + 1):
        settings = (*(o.replace("{seed}", str(seed)) for o in overrides), f"training.seed={seed}")
        try:
            recipe = narrowed(load_recipe(path, settings))
            out = runs / f"{recipe.name}-{seed}"
            if not _is_there(out, recipe):
                print(f"{recipe.name}, seed {seed} of {seeds}", file=sys.stderr)
                train(recipe, out, cache=cache, reading_steps=0)
        except RecipeError as error:
            raise RecipeError(at_its_line(error, path, settings)) from None
        yield json.loads((out / METRICS_FILE).read_text())


def _is_there(out: Path, recipe: Recipe) -> bool:
    """Whether a finished run of this recipe, and of tables with the bytes that they have now, lies in a folder."""
    if not (out / METRICS_FILE).is_file():
        return False
    try:
        kept = load_recipe(out / RECIPE_FILE)
    except RecipeError:
        return False  # of a time when recipes had other keys
    if kept.model_dump(exclude=NOT_TRAINED) != recipe.model_dump(exclude=NOT_TRAINED):
        return False
    tables = json.loads((out / METRICS_FILE).read_text())["data"]["tables"]
    folder = data_folder(recipe.data)
    return all((folder / name).is_file() and content_hash(folder / name) == digest for name, digest in tables.items())


def tabulated(
    recipes: dict[Path, Recipe], measured: dict[Path, list[dict[str, Any]]]
) -> tuple[str, list[dict[str, Any]]]:
    """Markdown and plain data of all groups, in the order of the marks file, the others after them."""
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
    """PATH.json, and PATH.md below whatever stands there above the mark."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(plain, out.with_suffix(".json"))
    page = out.with_suffix(".md")
    above, found, _ = page.read_text().partition(ABOVE_IS_KEPT) if page.is_file() else ("", "", "")
    page.write_text(f"{above if found else ''}{ABOVE_IS_KEPT}\n\n{tables}")


def with_data(paths: list[Path], overrides: tuple[str, ...]) -> dict[Path, Recipe]:
    """The recipes by file, without those whose data is not there, which is told. Raises RecipeError."""
    found: dict[Path, Recipe] = {}
    for path in paths:
        recipe = narrowed(load_recipe(path, overrides))
        namesake = next((p for p, r in found.items() if r.name == recipe.name), None)
        if namesake:
            raise RecipeError(
                f"{path}: '{recipe.name}' is also the name of {namesake}; their runs would lie in one folder"
            )
        try:
            data_folder(recipe.data)
        except RecipeError as error:
            print(f"left out: {path}: {error}", file=sys.stderr)
            continue
        found[path] = recipe
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="python -m models.benchmark",
        description="Train recipes over several seeds and tabulate the test metrics, mean and sample deviation, by data and labels, beside the marks "
        "of models/reports/marks.yaml. Finished runs are kept and not repeated; a run that fails does not lose the others.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument(
        "recipes", type=Path, nargs="*", metavar="RECIPE.yaml", help=f"which recipes (default: all in {RECIPES})"
    )
    out.add_argument(
        "--seeds", type=int, default=5, metavar="N", help="seeds 1 to N of each recipe (default: %(default)s)"
    )
    out.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting of all; {seed} is the seed; repeatable",
    )
    out.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/benchmark"),
        metavar="DIR",
        help="where the runs lie (default: %(default)s)",
    )
    out.add_argument(
        "--cache",
        type=Path,
        default=DEFAULT_CACHE,
        metavar="DIR",
        help="where encoded data is kept (default: %(default)s)",
    )
    out.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="torch's threads (default: 1, so that a run repeats to the bit)",
    )
    out.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="write PATH.json and PATH.md as well; text in PATH.md above the tables stays",
    )
    return out


def main(arguments: list[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    torch.set_num_threads(given.threads)
    overrides = tuple(given.set)
    measured: dict[Path, list[dict[str, Any]]] = {}
    failures = []
    try:
        recipes = with_data(given.recipes or sorted(RECIPES.glob("*.yaml")), overrides)
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path in recipes:
        try:
            for metrics in measured_runs(path, given.seeds, given.runs, given.cache, overrides):
                measured.setdefault(path, []).append(metrics)
        except (RuntimeError, ValueError, OSError) as error:
            failures.append(f"failed: {path}: {error}")
            print(failures[-1], file=sys.stderr)
    tables, plain = tabulated(recipes, measured)
    if given.out:
        write(given.out, tables, plain)
    print(tables)
    print("\n".join(failures), file=sys.stderr, end="\n" if failures else "")
    return 2 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
