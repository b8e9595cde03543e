"""Chooses the run that the training of a night continues: the run of the live version, or none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from loop.nightly.config import NightlyConfig
from loop.nightly.data import impression_times
from loop.nightly.publishing import live_version
from loop.nightly.steps import FinishedStep, read_step, run_step
from models.recipe import Recipe, RecipeError, load_recipe
from models.recipe.sections.data import TimeSplit
from models.training.outcome import METRICS_FILE, RECIPE_FILE
from models.training.warm_start import open_warm_start
from service.bundle.registry import Target, folder_of
from service.bundle.verify import read_manifest

DATA_FOLDER = "data"
RECIPE = "recipe.yaml"
RUN_FOLDER = "run"
_NETWORK = ("tasks", "position", "model")


def start_of(folder: Path, config: NightlyConfig, joined: FinishedStep, control: bool) -> Mapping[str, Any]:
    """`run`, `version` and `checkpoint_sha256` of the run to continue, or `cold`: the reason why there is none.

    It stays the same in the whole run, also when the version of this run becomes live.
    """
    if control:
        return {"cold": "the control must learn nothing"}
    if config.train.start == "cold":
        return {"cold": "train.start is cold"}
    known = read_step(folder, "start")
    needed = None
    if known is not None and "run" in known.result and read_step(folder, "train") is None:
        needed = config.work / known.result["run"] / RUN_FOLDER / METRICS_FILE  # it may have been removed since

    def work() -> Mapping[str, Any]:
        live = live_version(config.registry, config.publish.line)
        return _choose(config.work, config.registry, live, folder)

    return run_step(folder, "start", [joined.fingerprint, joined.result], work, needed).result


def _choose(work: Path, registry: Path, live: Target | None, night: Path) -> dict[str, Any]:
    """Choose the run that the live version's provenance names, among those in `work`, for the run in `night`."""
    if live is None:
        return {"cold": "no version is live"}
    origin = read_manifest(folder_of(registry, live)).provenance.get("nightly") or {}
    name = str(origin.get("run", ""))
    if not name or Path(name).name != name or "checkpoint_sha256" not in origin:
        return {"cold": f"{live} names no nightly run with its checkpoint"}
    folder = work / name / RUN_FOLDER
    out = night / RUN_FOLDER
    if folder.resolve() == out.resolve():
        return {"cold": f"{live} was trained in this run"}
    recipe = load_recipe(night / RECIPE)
    try:
        start = open_warm_start(folder, recipe, out)
        earlier = load_recipe(folder / RECIPE_FILE)
    except RecipeError as error:
        return {"cold": str(error).removeprefix("--from: ")}
    if start.checkpoint_sha256 != origin["checkpoint_sha256"]:
        return {"cold": f"{folder} has another checkpoint than {live}"}
    changed = [section for section in _NETWORK if getattr(earlier, section) != getattr(recipe, section)]
    if changed:
        return {"cold": f"{folder} was trained with another section '{changed[0]}'"}
    reason = _unfit_hours(earlier, recipe, night / DATA_FOLDER)
    if reason:
        return {"cold": f"{folder} {reason}"}
    return {"run": name, "version": str(live), "checkpoint_sha256": start.checkpoint_sha256}


def on_new_hours(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the training part after that of the run in `folder`, whose weights know the hours before."""
    new = _split(recipe)
    until = _split(load_recipe(folder / RECIPE_FILE)).train[1]
    parts = new.model_copy(update={"train": (max(until, new.train[0]), new.train[1])})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"split": parts})})


def _unfit_hours(earlier: Recipe, recipe: Recipe, data: Path) -> str:
    """Why a run cannot be continued for the hours that it knows; empty if it can."""
    if not isinstance(earlier.data.split, TimeSplit):
        return "does not split by time"
    known = earlier.data.split
    new = _split(recipe)
    if known.validation[1] > new.test[0]:
        return "was trained or validated on hours of this comparison"
    times = impression_times(data, recipe)
    since = max(known.train[1], new.train[0]).timestamp() * 1000
    if not np.any((times >= since) & (times < new.train[1].timestamp() * 1000)):
        return "was trained on all hours that train here"
    return ""


def _split(recipe: Recipe) -> TimeSplit:
    assert isinstance(recipe.data.split, TimeSplit)  # a night splits by time
    return recipe.data.split
