"""Writes the result of a search: the table of its trials, the tuned recipe, and its command-line options."""

import json
import shlex
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

from features.files.writing import write_whole
from models.recipe import Recipe, parse_recipe
from models.recipe.sections.search_space import TuningSection
from models.training.checkpoint import write_json

TRIALS_FILE = "trials.json"
TABLE_FILE = "trials.md"
TUNED_FILE = "tuned.yaml"


def chosen(parameters: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Return a trial's settings in the form of a recipe: choices decoded from JSON, numbers rounded to five digits."""
    settings = {}
    for name, value in parameters.items():
        if isinstance(space[name], CategoricalDistribution):
            settings[name] = json.loads(value)
        elif isinstance(value, float):
            settings[name] = float(f"{value:.5g}")
        else:
            settings[name] = value
    return settings


def with_settings(recipe: Recipe, settings: Mapping[str, Any], origin: str) -> Recipe:
    """Apply dotted settings to a recipe. Raises RecipeError if they do not fit together."""
    raw = recipe.model_dump(mode="json", exclude_unset=True)
    for name, value in settings.items():
        *sections, key = name.split(".")
        target = raw
        for section in sections:
            target = target.setdefault(section, {})
        target[key] = value
    return parse_recipe(raw, origin)


def seconds_of(trial: FrozenTrial) -> float:
    """Return the seconds of a finished trial."""
    return trial.duration.total_seconds() if trial.duration else 0.0


def report(
    recipe: Recipe, section: TuningSection, space: Mapping[str, BaseDistribution], done: Sequence[FrozenTrial]
) -> dict[str, Any]:
    """Build trials.json: the budget, every trial by number, and the best one (None if none was completed)."""
    trials: list[dict[str, Any]] = []
    for place, trial in enumerate(done, start=1):
        remembered = {key: trial.user_attrs.get(key) for key in ("score", "step", "validation", "reason")}
        state = {
            "trial": place,
            "own": "own" in trial.user_attrs,
            "state": trial.state.name.lower(),
            "seconds": round(seconds_of(trial), 1),
        }
        trials.append(state | {"settings": chosen(trial.params, space)} | remembered)
    complete = [t for t in trials if t["state"] == "complete"]
    best: dict[str, Any] | None = max(complete, key=lambda t: t["score"], default=None)
    return {
        "recipe": recipe.name,
        "selected_on": list(recipe.training.select_on),
        "tuning": section.model_dump(mode="json", exclude_none=True),
        "best": best,
        "trials": trials,
    }


def write_search(searched: Mapping[str, Any], recipe: Recipe, out: Path) -> list[str]:
    """Write a report as trials.json and trials.md, and the tuned recipe, into a folder; return the lines to print."""
    write_json(searched, out / TRIALS_FILE)
    lines = [*_best_lines(searched["best"], out), "", *_table(searched["trials"], list(searched["tuning"]["space"]))]
    write_whole(out / TABLE_FILE, "\n".join([f"# Search of {recipe.name}", "", *lines, ""]).encode())
    if searched["best"]:
        tuned = with_settings(recipe, searched["best"]["settings"], "the best trial").model_dump(
            mode="json", exclude_unset=True
        )
        write_whole(out / TUNED_FILE, yaml.safe_dump(tuned, sort_keys=False, allow_unicode=True).encode())
    return lines


def _best_lines(best: Mapping[str, Any] | None, out: Path) -> list[str]:
    if best is None:
        return ["No trial was completed: see the reasons below."]
    aucs = ", ".join(f"{name} {auc:.5f}" for name, auc in best["validation"].items())
    sets = [f"--set {shlex.quote(f'{name}={json.dumps(value)}')}" for name, value in best["settings"].items()]
    remark = " (the recipe as it is)" if best["own"] else ""
    opening = f"Best: trial {best['trial']}{remark}, validation score {best['score']:.5f} ({aucs})."
    return [
        opening,
        f"{out / TUNED_FILE} is the recipe with its settings; on the command line they are:",
        "",
        *(f"    {s}" for s in sets),
    ]


def _table(trials: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """A table of trials, best first, then the pruned ones; `validation` has every AUC of the trial's best
    evaluation.
    """
    outputs = next((list(t["validation"]) for t in trials if t["validation"]), [])
    columns = ["trial", "score", *outputs, *names, "seconds", "remark"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for t in sorted(trials, key=lambda t: (t["state"] != "complete", -(t["score"] or 0))):
        aucs = [t["score"], *((t["validation"] or {}).get(name) for name in outputs)]
        remark = "the recipe as it is" if t["own"] and not t["reason"] else (t["reason"] or "").replace("|", "\\|")
        cells = [
            *("" if auc is None else f"{auc:.5f}" for auc in aucs),
            *(json.dumps(t["settings"][n]) for n in names),
            f"{t['seconds']:.0f}",
            remark,
        ]
        lines.append(f"| {t['trial']} | {' | '.join(cells)} |")
    return lines


def error_of_sqlite(error: BaseException) -> sqlite3.Error | None:
    """Return the database's own error among the causes: optuna and the layers below it each raise one of theirs."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, sqlite3.Error):
        cause = cause.__cause__
    return cause
