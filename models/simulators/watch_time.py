"""Simulator (f), watch time: long videos are watched longer and shown more, and most of the time goes to few views."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.statistics import rank_correlation
from models.simulators.base import (
    Claim,
    Result,
    Simulator,
    part_column,
    recipe_of,
    sigmoid,
    values_on_test,
    write_tables,
)

IMPRESSIONS = 60_000
USERS = 3000
ITEMS = 600
TRAITS = 3
FEATURES = {
    "item_id_feature": "item_id",
    "user": [{"name": f"trait_{i}", "type": "numeric"} for i in range(TRAITS)],
    "item": [
        {"name": "item_id", "type": "categorical"},
        {"name": "duration", "type": "numeric", "transform": "log1p"},
    ],
}
WATCHED = {"name": "watch_time", "label": "watched"}
OF_LOGARITHM = "squared error of the logarithm"
TASKS: Mapping[str, Mapping[str, Any]] = {
    "squared error": WATCHED | {"type": "independent", "kind": "value"},
    OF_LOGARITHM: {"type": "independent", "name": "watch_time", "label": "log1p(watched)", "kind": "value"},
    "D2Q": WATCHED | {"type": "d2q", "duration": "duration"},
    "CREAD": WATCHED | {"type": "cread"},
}
RANDOM = "shown at random"
BY_DURATION = "long videos shown more"
SETTINGS = {RANDOM: 0.0, BY_DURATION: 1.0}


def world(rng: np.random.Generator, n: int, confounding: float) -> tuple[dict[str, pd.DataFrame], np.ndarray]:
    """Tables, and the expected watch time of every impression, in seconds.

    An item has a log-normal duration and hidden traits; the interest is a match of traits. A tenth of the views ends at
    once, whatever is shown; the others watch the share Beta(4 m, 4 (1 - m)) of the duration to the power 0.7, with m =
    sigmoid(-1 + interest). In the training and validation parts an item is shown in proportion to its duration to the
    power `confounding`; in the test part, as it would be with another ranker, all alike.
    """
    x = rng.normal(size=(USERS, TRAITS))
    v = rng.normal(size=(ITEMS, TRAITS)) * 0.7
    item_effects = rng.normal(size=ITEMS) * 0.5
    duration = np.exp(rng.normal(3.5, 1.0, ITEMS))
    part = part_column(rng, n)
    shown = duration**confounding / (duration**confounding).sum()
    item = np.where(part == "test", rng.integers(0, ITEMS, n), rng.choice(ITEMS, n, p=shown))
    user = rng.integers(0, USERS, n)
    share = sigmoid(-1.0 + item_effects[item] + (x[user] * v[item]).sum(1))
    watchable = duration[item] ** 0.7
    stays = rng.random(n) < 0.9
    watched = watchable * rng.beta(4 * share, 4 * (1 - share)) * stays
    impressions = pd.DataFrame({"user_id": user, "item_id": item, "time_ms": np.arange(n), "part": part})
    impressions["watched"] = watched
    users = pd.DataFrame({"user_id": np.arange(USERS)} | {f"trait_{i}": x[:, i] for i in range(TRAITS)})
    items = pd.DataFrame({"item_id": np.arange(ITEMS), "duration": duration})
    return {"users": users, "items": items, "impressions": impressions}, 0.9 * watchable * share


def run(seed: int, size: float, folder: Path) -> Result:
    result: Result = {}
    for number, (setting, confounding) in enumerate(SETTINGS.items()):
        rng = np.random.default_rng([6, seed, number])
        tables, truth = world(rng, int(IMPRESSIONS * size), confounding)
        place = folder / str(number)
        write_tables(place, tables)
        shown = tables["impressions"]
        test = (shown["part"] == "test").to_numpy()
        truth = truth[test]
        duration = tables["items"]["duration"].to_numpy()[shown["item_id"].to_numpy()[test]]
        for model, task in TASKS.items():
            network = {"architecture": "d2q", "trunk": {"type": "separate", "hidden": [32]}}
            raw = recipe_of(f"watch-{len(result)}", FEATURES, [task], network)
            got = values_on_test(raw, place, seed)["watch_time"]
            got = np.expm1(got) if model == OF_LOGARITHM else got
            error = got - truth
            result[setting, model] = {
                "rank correlation": rank_correlation(got, truth),
                "mean absolute error, s": float(np.abs(error).mean()),
                "predicted / true - 1": float(got.mean() / truth.mean() - 1),
                "rank correlation at like durations": _at_like_durations(got, truth, duration),
            }
    return result


def _at_like_durations(got: np.ndarray, truth: np.ndarray, duration: np.ndarray) -> float:
    """The mean rank correlation within tenths of the durations: the order of interest, without that of durations."""
    tenths = np.searchsorted(np.quantile(duration, np.arange(1, 10) / 10), duration, side="right")
    return float(np.mean([rank_correlation(got[tenths == k], truth[tenths == k]) for k in range(10)]))


def _comparisons() -> Iterator[Claim]:
    for model in ("D2Q", "CREAD"):
        for setting in SETTINGS:
            yield Claim(setting, model, "squared error", "rank correlation")
            yield Claim(setting, model, "squared error", "rank correlation at like durations")
            yield Claim(setting, model, "squared error", "mean absolute error, s", less=True)


SIMULATOR = Simulator(
    name="watch_time",
    claim="D2Q (KDD 2022): learning the quantile of the watch time among videos of like duration orders better than "
    "learning the time, most where long videos were shown more. CREAD (AAAI 2024): restoring the time from the "
    "probabilities of thresholds has a smaller error.",
    world="Users' traits and durations are seen, items are known by id; a tenth of the views ends at once. Where long "
    "videos were shown more, the test shows all alike.",
    comparisons=(*_comparisons(),),
    run=run,
)
