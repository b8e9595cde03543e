"""Shared by the simulators: training on simulated tables, measures against the truth, the result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.statistics import rank_correlation
from models.data.cache import Data, open_data
from models.network.model import MultiTaskModel
from models.prepare.write import whole_folder
from models.recipe import parse_recipe
from models.train import train
from models.training.evaluation import scores_of
from models.training.run import open_run

PARTS = ("train", "validation", "test")
Measures = dict[str, float]
Result = dict[tuple[str, str], Measures]  # by (setting, model)


@dataclass(frozen=True)
class Claim:
    """The claim that `model` has more of `measure` than `other` (with `less`: less of it) in a setting."""

    setting: str
    model: str
    other: str
    measure: str
    less: bool = False

    def margin(self, result: Mapping[tuple[str, str], Measures]) -> float:
        """By how much the claim holds; negative if it does not hold."""
        difference = result[self.setting, self.model][self.measure] - result[self.setting, self.other][self.measure]
        return -difference if self.less else difference


@dataclass(frozen=True)
class Simulator:
    """`run(seed, size, folder)` measures every model; `size` scales the impressions, 1 for the published figures."""

    name: str
    claim: str
    world: str
    comparisons: tuple[Claim, ...]
    run: Callable[[int, float, Path], Result]
    log: Callable[[int, float, Path], None] | None = None  # writes the tables of a seed into a folder, for recipes


def part_column(rng: np.random.Generator, n: int, shares: Sequence[float] = (0.6, 0.15, 0.25)) -> np.ndarray:
    """Draw a part's name for each impression, with these shares of train, validation and test."""
    return rng.choice(np.array(PARTS), n, p=shares)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def recipe_of(
    name: str, features: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]], model: Mapping[str, Any], **more: Any
) -> dict[str, Any]:
    """Make a recipe over simulated tables; `training` in `more` overrides single settings."""
    training = {
        "epochs": 8,
        "batch_size": 256,
        "learning_rate": 0.003,
        "schedule": "cosine",
        "averaging": 0.99,
        "patience": 3,
    }
    return {
        "name": name,
        "description": "simulated",
        "data": {"dir": "", "split": {"by": "column", "column": "part"}, "users": "users.parquet", "behaviours": None},
        "features": dict(features),
        "tasks": list(tasks),
        "model": {"embedding": {"dim": 8, "min_count": 1, "unknown_rate": 0.0}, "tower_hidden": [16], **model},
        **more,
        "training": training | more.get("training", {}),
    }


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write all tables of a world or none."""
    with whole_folder(folder) as unfinished:
        for name, table in tables.items():
            table.to_parquet(unfinished / f"{name}.parquet", index=False)


def scores_on_test(raw: dict[str, Any], folder: Path, seed: int) -> dict[str, np.ndarray]:
    """Train a recipe on the tables in `folder`; return every output's probability on the test part, in the table's
    order.
    """
    return {name: np.exp(score) for name, score in values_on_test(raw, folder, seed).items()}


def values_on_test(raw: dict[str, Any], folder: Path, seed: int) -> dict[str, np.ndarray]:
    """Train a recipe as `scores_on_test` does; return every output's value, or the logarithm of its probability."""
    ranker, data = trained(raw, folder, seed)
    return {name: score.astype(np.float64) for name, score in scores_of(ranker, data, "test").items()}


def trained(raw: dict[str, Any], folder: Path, seed: int) -> tuple[MultiTaskModel, Data]:
    """Train a recipe on the tables in `folder`; return the model with its best weights, and the data."""
    raw = raw | {"data": raw["data"] | {"dir": str(folder)}, "training": raw["training"] | {"seed": seed}}
    recipe = parse_recipe(raw, raw["name"])
    out = folder / f"run-{raw['name']}"
    cache = folder / "cache"
    train(recipe, out, cache=cache, reading_steps=0, quiet=True)
    return open_run(out).ranker, open_data(recipe, cache)


def grouped_rank_correlation(a: np.ndarray, b: np.ndarray, groups: np.ndarray) -> float:
    """The mean over groups (requests) of Spearman's rank correlation inside each."""
    values = [rank_correlation(a[groups == group], b[groups == group]) for group in np.unique(groups)]
    return float(np.mean(values))


def divergence(truth: np.ndarray, p: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of a prediction from the true probability, in thousandths of a nat."""
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return float(1000 * np.mean(truth * np.log(truth / p) + (1 - truth) * np.log((1 - truth) / (1 - p))))
