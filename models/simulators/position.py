"""Simulator (c), position bias: items at the top are clicked more, whatever their utility."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.statistics import rank_correlation
from models.simulators.base import (
    Claim,
    Result,
    Simulator,
    grouped_rank_correlation,
    part_column,
    recipe_of,
    scores_on_test,
    sigmoid,
    write_tables,
)
from models.training.outcome import METRICS_FILE

REQUESTS = 6000
SHOWN = 10
USERS = 3000
ITEMS = 400
TRAITS = 3
DESKTOP = 0.5
PURCHASE = -1.5  # the bias of a purchase after a click, as a multiple of that of the click
SEARCH = 0.5  # the share of it in the search, where people read on
USER = [{"name": f"trait_{i}", "type": "numeric"} for i in range(TRAITS)]
FEATURES: dict[str, Any] = {
    "item_id_feature": "item_id",
    "user": USER,
    "item": [{"name": "item_id", "type": "categorical"}],
}
TOWER = {"column": "position", "cross": "device", "max_position": SHOWN, "drop_rate": 0.1, "head": "pctr"}
AS_FEATURE = [{"name": "shown_at", "type": "categorical"}, {"name": "shown_on", "type": "categorical"}]
MODELS: dict[str, tuple[list[dict[str, str]], dict[str, Any]]] = {
    "no correction": ([], {}),
    "position as a feature": (AS_FEATURE, {}),
    "position tower": ([], {"position": TOWER}),
}
MODEL = {"architecture": "shared_bottom", "trunk": {"type": "shared_bottom", "hidden": [32]}}
TASKS = [{"type": "independent", "name": "pctr", "label": "click"}]
SETTINGS = {"old ranker unlike the truth": 0.0, "old ranker half right": 0.7}


def true_bias(position: np.ndarray) -> np.ndarray:
    """The logit's shift at positions from 1 on, on a phone; on a desktop, it is `DESKTOP` times that."""
    return np.asarray(-2.4 * np.log(position) / np.log(SHOWN))


def world(
    rng: np.random.Generator, n: int, rightness: float | None
) -> tuple[dict[str, pd.DataFrame], np.ndarray, np.ndarray]:
    """Generate tables, the true utility of every impression, and its request.

    An old ranker chose the order by a noisy score that consists of the utility (with weight `rightness`) and of
    preferences of its own; with None the order is random. logit p(click) = utility + bias(position, device), where the
    bias falls from 0 to -2.4 on a phone and half as far on a desktop. The candidates of the test part have not been
    shown yet, so a model with the position as a feature is evaluated at the first position.
    """
    # The users' tastes and the items' values.
    x = rng.normal(size=(USERS, TRAITS))
    v = rng.normal(size=(ITEMS, TRAITS)) * 0.5
    worth = rng.normal(size=ITEMS) * 0.6
    fancy = rng.normal(size=ITEMS)
    user = np.repeat(rng.integers(0, USERS, n), SHOWN)
    item = rng.integers(0, ITEMS, n * SHOWN)
    utility = -1.0 + worth[item] + (x[user] * v[item]).sum(1)
    # The order in which the old ranker showed the items.
    old = rng.normal(size=len(item))
    if rightness is not None:
        old += rightness * utility + fancy[item]
    position = (-old.reshape(n, SHOWN)).argsort(1).argsort(1).ravel() + 1
    desktop = np.repeat(rng.random(n) < 0.5, SHOWN)
    bias = true_bias(position) * np.where(desktop, DESKTOP, 1.0)
    # Clicks depend on utility and position only.
    part = np.repeat(part_column(rng, n), SHOWN)
    impressions = pd.DataFrame(
        {"user_id": user, "item_id": item, "time_ms": np.arange(n * SHOWN), "part": part, "position": position}
    )
    impressions["device"] = np.where(desktop, "desktop", "phone")
    impressions["click"] = (rng.random(len(item)) < sigmoid(utility + bias)).astype(int)
    impressions["shown_at"] = np.where(part == "test", 1, position)
    impressions["shown_on"] = impressions["device"]
    users = pd.DataFrame({"user_id": np.arange(USERS)} | {f"trait_{i}": x[:, i] for i in range(TRAITS)})
    return (
        {"users": users, "items": pd.DataFrame({"item_id": np.arange(ITEMS)}), "impressions": impressions},
        utility,
        np.repeat(np.arange(n), SHOWN),
    )


def with_purchases(seed: int, impressions: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Add the columns `scene` and `buy` to the impressions; also return the true utility of each for a purchase.

    A click far down is rare and comes from people who mean it. So logit p(buy | click) = utility + bias(position,
    device, scene), where the bias rises with the position by up to 3.6 on a phone in the feed, half of that on a
    desktop, and `SEARCH` of both in the search.
    """
    rng = np.random.default_rng([3, seed, 1])
    worth = rng.normal(size=ITEMS) * 0.5
    utility = worth[impressions["item_id"].to_numpy()] - 1.0
    search = np.repeat(rng.random(len(impressions) // SHOWN) < 0.5, SHOWN)
    bias = PURCHASE * true_bias(impressions["position"].to_numpy())
    bias = bias * np.where(impressions["device"] == "desktop", DESKTOP, 1.0) * np.where(search, SEARCH, 1.0)
    bought = rng.random(len(impressions)) < sigmoid(utility + bias)
    more = {"scene": np.where(search, "search", "feed"), "buy": impressions["click"] * bought}
    return impressions.assign(**more), utility


def log(seed: int, size: float, folder: Path) -> None:
    """Write the tables of the first setting, with purchases, which models/recipes/simulated-position*.yaml train on."""
    rightness = next(iter(SETTINGS.values()))
    tables, _, _ = world(np.random.default_rng([3, seed]), int(REQUESTS * size), rightness)
    impressions, _ = with_purchases(seed, tables["impressions"])
    write_tables(folder, tables | {"impressions": impressions})


def run(seed: int, size: float, folder: Path) -> Result:
    result: Result = {}
    for setting, rightness in SETTINGS.items():
        tables, utility, request = world(np.random.default_rng([3, seed]), int(REQUESTS * size), rightness)
        place = folder / f"{len(result)}"
        write_tables(place, tables)
        test = (tables["impressions"]["part"] == "test").to_numpy()
        for name, (context, more) in MODELS.items():
            raw = recipe_of(f"position-{len(result)}", FEATURES | {"context": context}, TASKS, MODEL, **more)
            scores = scores_on_test(raw, place, seed)["pctr"]
            result[setting, name] = {
                "rank correlation inside requests": grouped_rank_correlation(scores, utility[test], request[test]),
                "rank correlation, all": rank_correlation(scores, utility[test]),
            }
    return result


def learnt_bias(seed: int, size: float, folder: Path, **training: Any) -> list[np.ndarray]:
    """The bias learned from random positions: the shift of the logit at each position relative to the first, by device.

    The truth is `true_bias` on a phone, and `DESKTOP` times that on a desktop.
    """
    tables, _, _ = world(np.random.default_rng([3, seed]), int(REQUESTS * size), None)
    write_tables(folder, tables)
    raw = recipe_of("position-random", FEATURES, TASKS, MODEL, position=TOWER, training=training)
    scores_on_test(raw, folder, seed)
    curve = json.loads((folder / f"run-{raw['name']}" / METRICS_FILE).read_text())["position"]["curve"]
    return [np.array(line["shift"]) - line["shift"][0] for line in curve]


_MEASURE = "rank correlation inside requests"
SIMULATOR = Simulator(
    name="position",
    claim="YouTube (RecSys 2019): a shallow position tower beside the model beats no correction and the position as an "
    "ordinary feature.",
    world="Clicks follow utility + bias(position, device); an old ranker with favourites of its own chose the "
    "positions.",
    comparisons=tuple(
        Claim(setting, "position tower", other, _MEASURE)
        for setting in SETTINGS
        for other in ("no correction", "position as a feature")
    ),
    run=run,
    log=log,
)
