"""Trains a recipe day after day: the last run continued on the new day, against all days so far from the beginning."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from models.recipe import Recipe, RecipeError
from models.recipe.sections.data import TimeSplit
from models.train import train
from models.training.checkpoint import write_json

DAY = timedelta(days=1)
WARM = "continued"
FULL = "afresh"
MEASURES = ("auc", "gauc", "log_loss", "rmse")
DAILY_FILE = "daily.json"


@dataclass(frozen=True)
class DailySplit:
    """The parts on the evening of one day: what a run is trained on, the hours that select it, the next day."""

    day: str
    new: tuple[datetime, datetime]  # the hours since the last training
    every: tuple[datetime, datetime]  # the hours since the first day
    validation: tuple[datetime, datetime]
    test: tuple[datetime, datetime]


def daily_splits(split: TimeSplit, hours: float) -> list[DailySplit]:
    """The evenings between the split's first training day and its last test day, oldest first.

    The last `hours` of a day select the weights; they are trained on the day after. Raises RecipeError if there are
    fewer than two evenings.
    """
    start = split.train[0]
    selecting = timedelta(hours=hours)
    splits = []
    trained_until = start
    evening = start + DAY
    while evening + DAY <= split.test[1]:
        until = evening - selecting
        splits.append(
            DailySplit(
                (evening - DAY).date().isoformat(),
                (trained_until, until),
                (start, until),
                (until, evening),
                (evening, evening + DAY),
            )
        )
        trained_until = until
        evening += DAY
    if len(splits) < 2:
        raise RecipeError("data.split: fewer than two days to train on and one to test on", ("data", "split"))
    return splits


def train_daily(
    recipe: Recipe, out: Path, cache: Path, hours: float, warm_epochs: int, device: str = "cpu"
) -> dict[str, Any]:
    """Train both ways on every day and return, by day and way, the metrics of the next day and the cost.

    Runs that are finished stay. Raises RecipeError if the recipe does not split by time.
    """
    if not isinstance(recipe.data.split, TimeSplit):
        raise RecipeError("data.split: days are made of times; split by time", ("data", "split"))
    splits = daily_splits(recipe.data.split, hours)
    former = out / f"{FULL}-{splits[0].day}"
    days = []
    for i, split in enumerate(splits):
        measured = {FULL: _measured(recipe, split, split.every, None, out / f"{FULL}-{split.day}", cache, device)}
        if i:
            shorter = recipe.model_copy(update={"training": recipe.training.model_copy(update={"epochs": warm_epochs})})
            folder = out / f"{WARM}-{split.day}"
            measured[WARM] = _measured(shorter, split, split.new, former, folder, cache, device)
            former = folder
        days.append({"day": split.day, "ways": measured})
    result = {"name": recipe.name, "epochs": recipe.training.epochs, "warm_epochs": warm_epochs, "days": days}
    write_json(result, out / DAILY_FILE)
    return result


def _measured(
    recipe: Recipe,
    split: DailySplit,
    trained_on: tuple[datetime, datetime],
    start: Path | None,
    out: Path,
    cache: Path,
    device: str,
) -> dict[str, Any]:
    """Train one run, or take a finished one; return its cost, and the metrics of the next day by output."""
    parts = TimeSplit(by="time", train=trained_on, validation=split.validation, test=split.test)
    of_day = recipe.model_copy(update={"data": recipe.data.model_copy(update={"split": parts})})
    metrics = train(of_day, out, cache=cache, reading_steps=0, quiet=True, start=start, resume=True, device=device)
    outputs = metrics["parts"]["test"]["outputs"]
    return {
        "rows": metrics["parts"]["train"]["impressions"],
        "seconds": metrics["speed"]["seconds_per_epoch"] * metrics["epochs"],
        "outputs": {name: {key: m[key] for key in MEASURES if key in m} for name, m in outputs.items()},
    }


def table_of(result: dict[str, Any]) -> str:
    """The result as a Markdown table with a row per day, way and output."""
    lines = ["| trained on the evening of | way | rows | s | output | AUC | GAUC | log loss |", "|---" * 8 + "|"]
    for day in result["days"]:
        for way, measured in day["ways"].items():
            cost = f"{measured['rows']:,} | {measured['seconds']:.1f}"
            for name, m in measured["outputs"].items():
                gauc = (m.get("gauc") or {}).get("value")
                figures = " | ".join("-" if x is None else f"{x:.4f}" for x in (m.get("auc"), gauc, m.get("log_loss")))
                lines.append(f"| {day['day']} | {way} | {cost} | {name} | {figures} |")
    return "\n".join(lines)
