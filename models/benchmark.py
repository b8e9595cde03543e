"""Owns `python -m models.benchmark`: recipes trained over several seeds, and the table of what came out."""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from models.data.cache import DEFAULT_CACHE
from models.recipe import Recipe, RecipeError, load_recipe
from models.train import train
from models.training.outcome import METRICS_FILE, RECIPE_FILE

EXAMPLE = """example:
  python -m models.benchmark models/recipes/kuairand-*.yaml --seeds 3 --out docs/results
"""


def measure(path: Path, seeds: int, runs: Path, cache: Path, overrides: tuple[str, ...]) -> tuple[Recipe, list[dict[str, Any]]]:
    """The metrics of one recipe for seeds 1 to `seeds`; a run that is there already, of the same recipe, is not repeated."""
    recipe = load_recipe(path, overrides)
    found = []
    for seed in range(1, seeds + 1):
        seeded = load_recipe(path, (*(o.replace("{seed}", str(seed)) for o in overrides), f"training.seed={seed}"))
        out = runs / f"{recipe.name}-{seed}"
        if not _is_there(out, seeded):
            print(f"{recipe.name}, seed {seed} of {seeds}", file=sys.stderr)
            train(seeded, out, cache=cache, reading_steps=0)
        found.append(json.loads((out / METRICS_FILE).read_text()))
    return recipe, found


def _is_there(out: Path, recipe: Recipe) -> bool:
    return (out / METRICS_FILE).is_file() and load_recipe(out / RECIPE_FILE) == recipe


def scored(metrics: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each output of the test part with its metrics, and each score that is held against another label."""
    test = metrics["parts"]["test"]
    yield from test["outputs"].items()
    for extra in test["extra"]:
        yield f"{extra['score']} for {extra['label']}", extra


def rows_of(recipe: Recipe, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per output: mean and sample deviation over the seeds of AUC, GAUC, log loss and ECE on the test part."""
    rows = []
    for name in dict(scored(runs[0])):
        measured = [dict(scored(run))[name] for run in runs]
        row: dict[str, Any] = {"recipe": recipe.name, "output": name, "seeds": len(runs)}
        for key, values in (
            ("auc", [m.get("auc") for m in measured]),
            ("gauc", [(m.get("gauc") or {}).get("value") for m in measured]),
            ("log_loss", [m.get("log_loss") for m in measured]),
            ("ece", [m.get("ece") for m in measured]),
            ("rmse", [m.get("rmse") for m in measured]),
        ):
            present = [v for v in values if v is not None]
            if present:
                row[key] = {"mean": statistics.fmean(present), "deviation": statistics.stdev(present) if len(present) > 1 else None}
        rows.append(row)
    return rows


def costs_of(recipe: Recipe, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Parameters, seconds per epoch and rows per second of a recipe."""
    seconds = [run["speed"]["seconds_per_epoch"] for run in runs]
    return {
        "recipe": recipe.name,
        "composition": runs[0]["composition"],
        "parameters": runs[0]["parameters"],
        "seconds_per_epoch": statistics.fmean(seconds),
        "epochs": statistics.fmean(run["best"]["epoch"] for run in runs),
        "data": runs[0]["data"]["hash"],
    }


def table_of(rows: list[dict[str, Any]], costs: list[dict[str, Any]]) -> str:
    """Two markdown tables: metrics, and what the models cost to train."""
    lines = ["| recipe | score | test AUC | GAUC | log loss | ECE |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [_cell(row.get(key)) for key in ("auc", "gauc", "log_loss", "ece")]
        lines.append(f"| {row['recipe']} | {row['output']} | " + " | ".join(cells) + " |")
    lines += ["", "| recipe | encoders | trunk | parameters, tables + rest | best epoch | seconds per epoch |", "|---|---|---|---|---|---|"]
    for cost in costs:
        made, size = cost["composition"], cost["parameters"]
        lines.append(
            f"| {cost['recipe']} | {made['encoders']} | {made['trunk']} | {size['embedding']:,} + {size['dense']:,} "
            f"| {cost['epochs']:.1f} | {cost['seconds_per_epoch']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _cell(value: dict[str, float | None] | None) -> str:
    if value is None:
        return ""
    deviation = value["deviation"]
    return f"{value['mean']:.4f}" + (f" ± {deviation:.4f}" if deviation is not None else "")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.benchmark",
        description="Train recipes over several seeds and tabulate the test metrics: mean and sample deviation. Finished runs are kept.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipes", type=Path, nargs="+", metavar="RECIPE.yaml")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 1 to N of each recipe (default: 3)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting of all; {seed} is the seed; repeatable")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark"), metavar="DIR", help="where the runs lie (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR", help="where encoded data is kept (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="torch's threads (default: 1, so that a run repeats to the bit)")
    parser.add_argument("--out", type=Path, metavar="PATH", help="write PATH.json and PATH.md as well")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    rows: list[dict[str, Any]] = []
    costs: list[dict[str, Any]] = []
    try:
        for path in given.recipes:
            recipe, runs = measure(path, given.seeds, given.runs, given.cache, tuple(given.set))
            rows += rows_of(recipe, runs)
            costs.append(costs_of(recipe, runs))
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = table_of(rows, costs)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.with_suffix(".json").write_text(json.dumps({"rows": rows, "costs": costs}, indent=1))
        given.out.with_suffix(".md").write_text(table)
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
