"""Reads a finished run: its recipe, encoding, model with the best weights, metrics and data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.data.cache import Data, open_data
from models.data.encoding.encoding import Encoding, load_encoding
from models.network.build import build_ensemble
from models.network.model import MultiTaskModel
from models.recipe import Recipe, RecipeError, load_recipe
from models.training.checkpoint import WEIGHTS_FILE, load_whole
from models.training.outcome import (
    EARLIER_ENCODING_FILE,
    ENCODING_FILE,
    KEPT_FILE,
    METRICS_FILE,
    RECIPE_FILE,
    REPORT_FILE,
)
from tables import TableError


class RunError(RuntimeError):
    """A folder that is not a finished run; the message says what is missing."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    `kept_rows`: raw rows of the data by graph input name; `metrics`: of the test part by output; `report`: the page;
    `earlier`: the encoding that the run continues, if it does.
    """

    recipe: Recipe
    encoding: Encoding
    ranker: MultiTaskModel
    kept_rows: Mapping[str, np.ndarray]
    metrics: dict[str, dict[str, Any]]
    provenance: dict[str, Any]
    report: bytes
    earlier: Encoding | None = None


def open_run(folder: Path) -> Run:
    """Open the run in a folder. Raises RunError."""
    # metrics.json and the report are written last, so a folder with all of these is finished.
    for name in (RECIPE_FILE, ENCODING_FILE, KEPT_FILE, WEIGHTS_FILE, METRICS_FILE, REPORT_FILE):
        if not (folder / name).is_file():
            raise RunError(
                f"{folder} has no {name}: it is not a finished run; "
                f"train one with `python -m models.train RECIPE.yaml --out {folder}`"
            )
    try:
        recipe = load_recipe(folder / RECIPE_FILE)
        encoding = load_encoding(folder / ENCODING_FILE)
        earlier = None
        if (folder / EARLIER_ENCODING_FILE).is_file():
            earlier = load_encoding(folder / EARLIER_ENCODING_FILE)
        stored = load_whole(folder / WEIGHTS_FILE, mapped=True)  # copied into the network, and not held a second time
        ranker = build_ensemble(recipe, encoding, stored["cross_values"])
        ranker.load_state_dict(stored["weights"])
        with np.load(folder / KEPT_FILE, allow_pickle=False) as arrays:
            kept_rows = {name: arrays[name] for name in arrays.files}
        measured = json.loads((folder / METRICS_FILE).read_text())
    except (RecipeError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise RunError(f"{folder}: {error}") from error
    # The provenance for a bundle's manifest.
    provenance = {
        "recipe": recipe.model_dump(mode="json"),
        "seed": recipe.training.seed,
        "data": measured["data"],
        "versions": measured["versions"],
        "best": measured["best"],
        "calibration": measured["calibration"],
    }
    # Runs of earlier releases have none.
    if histograms := measured.get("histograms"):
        provenance["feature_histograms"] = histograms
    if members := measured.get("members"):
        provenance["members"] = members
    if start := measured.get("started_from"):
        provenance["started_from"] = start
    # The metrics of the test part by score, with calibration errors before and after.
    test = measured["parts"]["test"]
    if measured["calibration"]:
        for name, ece in measured["calibration"]["ece_before"]["test"].items():
            test["outputs"][name]["ece_before_calibration"] = ece
    metrics = {**test["outputs"], **{f"{m['score']} for {m['label']}": m for m in test["extra"]}}
    report = (folder / REPORT_FILE).read_bytes()
    return Run(recipe, encoding, ranker.eval(), kept_rows, metrics, provenance, report, earlier)


def open_run_data(run: Run, cache: Path) -> Data:
    """Open the data that a run was trained on. Raises RunError if it cannot be opened or has changed since."""
    try:
        data = open_data(run.recipe, cache, run.earlier)
    except (RecipeError, TableError, OSError) as error:
        raise RunError(f"the run's data cannot be opened: {error}") from error
    if data.described["hash"] != run.provenance["data"]["hash"]:
        raise RunError(
            f"the data in {data.described['folder']} is not what the run was trained on "
            f"(hash {data.described['hash']}, "
            f"the run's {run.provenance['data']['hash']}); restore it, or train again"
        )
    return data
