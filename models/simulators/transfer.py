"""Simulator (d), transfer: a fifth task with few labels, learned in DUPN's four ways beside four with many labels."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.statistics import rank_correlation
from models.simulators.base import (
    Claim,
    Result,
    Simulator,
    divergence,
    part_column,
    recipe_of,
    scores_on_test,
    sigmoid,
    write_tables,
)

IMPRESSIONS = 28_000
USERS = 2000
ITEMS = 200
SHOPS = 20
TASTES = 2
BEHAVIOURS = 10
ASKED = {"8 % of the labels": 0.08, "40 % of the labels": 0.4}
FEATURES: dict[str, Any] = {
    "item_id_feature": "item_id",
    "user": [{"name": "trait", "type": "numeric"}],
    "item": [{"name": "item_id", "type": "categorical"}, {"name": "shop", "type": "categorical"}],
    "behaviour": {"max_length": BEHAVIOURS, "item_features": ["item_id", "shop"]},
}
TASKS = [{"type": "independent", "name": f"p{label}", "label": label} for label in ("click", "like", "cart", "follow")]
FIFTH = {"type": "independent", "name": "pshop", "label": "shop_preference", "space": "asked"}
MODEL = {
    "architecture": "dupn",
    "encoders": [{"type": "dupn", "hidden": 16, "user_hidden": 16, "attention_hidden": 16}],
    "trunk": {"type": "separate", "hidden": [32]},
}
SLOWLY = "fine_tune, representation at a tenth of the rate"
WAYS: dict[str, dict[str, Any]] = {
    "retrain_single": {"mode": "retrain_single"},
    "retrain_all": {"mode": "retrain_all"},
    "representation_transfer": {"mode": "representation_transfer"},
    "fine_tune": {"mode": "fine_tune"},
    SLOWLY: {"mode": "fine_tune", "representation_rate": 0.1},
}
FINE_TUNED = ("fine_tune", SLOWLY)
NOT_FINE_TUNED = ("retrain_all", "representation_transfer")


def world(rng: np.random.Generator, n: int, share: float = 0.08) -> tuple[dict[str, pd.DataFrame], np.ndarray]:
    """Tables, and the true probability of the fifth label for every impression.

    A user's taste t shows only in the items of the behaviour sequence. With q an item's nature and s its shop's:
    click -0.8 + 1.5 t q,
    like -1.8 + 1.5 t q + 0.5 q1, cart -1.5 + 1.2 t (q + s), follow -2 + 1.5 t s, fifth -1 + 1.8 t s.
    Only a `share` of the impressions knows the fifth; all else is the same for every share.
    """
    # Tastes, shops and items; a behaviour is more likely if the item suits the taste.
    taste = rng.normal(size=(USERS, TASTES))
    of_shop = rng.normal(size=(SHOPS, TASTES))
    shop = rng.integers(0, SHOPS, ITEMS)
    nature = of_shop[shop] + rng.normal(size=(ITEMS, TASTES)) * 0.4
    seen = (taste @ nature.T * 2.0 + rng.gumbel(size=(USERS, ITEMS))).argsort(1)[:, -BEHAVIOURS:]
    user = rng.integers(0, USERS, n)
    item = rng.integers(0, ITEMS, n)
    times = 10**6 + np.arange(n)
    # The true logit of every label.
    tq = (taste[user] * nature[item]).sum(1)
    ts = (taste[user] * of_shop[shop[item]]).sum(1)
    logits = {
        "click": -0.8 + 1.5 * tq,
        "like": -1.8 + 1.5 * tq + 0.5 * nature[item, 0],
        "cart": -1.5 + 1.2 * (tq + ts),
        "follow": -2 + 1.5 * ts,
    }
    truth = sigmoid(-1 + 1.8 * ts)
    is_asked = rng.random(n) < share
    impressions = pd.DataFrame(
        {"user_id": user, "item_id": item, "time_ms": times, "part": part_column(rng, n), "asked": is_asked.astype(int)}
    )
    for name, logit in logits.items():
        impressions[name] = (rng.random(n) < sigmoid(logit)).astype(int)
    impressions["shop_preference"] = ((rng.random(n) < truth) & is_asked).astype(int)
    behaviours = pd.DataFrame({"user_id": np.repeat(np.arange(USERS), BEHAVIOURS), "item_id": seen.ravel()})
    behaviours["time_ms"] = 1 + np.arange(len(behaviours))
    behaviours["action"] = "click"
    behaviours["scene"] = "home"
    users = pd.DataFrame({"user_id": np.arange(USERS), "trait": taste[:, 0] + rng.normal(size=USERS)})
    items = pd.DataFrame({"item_id": np.arange(ITEMS), "shop": shop})
    return {"users": users, "items": items, "behaviours": behaviours, "impressions": impressions}, truth


def run(seed: int, size: float, folder: Path) -> Result:
    source = folder / "source"
    result: Result = {}
    for setting, share in ASKED.items():
        tables, truth = world(np.random.default_rng([4, seed]), int(IMPRESSIONS * size), share)
        place = folder / f"{share}"
        write_tables(place, tables)
        if not result:
            scores_on_test(recipe("source", TASKS, None, []), place, seed)
            (place / "run-transfer-source").rename(source)
        truth = truth[(tables["impressions"]["part"] == "test").to_numpy()]
        for number, (way, chosen) in enumerate(WAYS.items()):
            transfer = chosen | {"task": FIFTH["name"]} | ({} if way.startswith("retrain") else {"from": str(source)})
            scores = scores_on_test(recipe(f"{number}", [*TASKS, FIFTH], transfer, [FIFTH["name"]]), place, seed)[
                "pshop"
            ]
            result[setting, way] = {
                "rank correlation": rank_correlation(scores, truth),
                "divergence": divergence(truth, scores),
            }
    return result


def recipe(
    name: str, tasks: Sequence[Mapping[str, str]], transfer: Mapping[str, Any] | None, select_on: list[str]
) -> dict[str, Any]:
    """The recipe of the source run, or of one way to learn from it."""
    training = {"epochs": 8, "batch_size": 512, "learning_rate": 0.006, "transfer": transfer, "select_on": select_on}
    raw = recipe_of(f"transfer-{name}", FEATURES, tasks, MODEL, training=training)
    return raw | {"data": raw["data"] | {"behaviours": "behaviours.parquet"}}


SIMULATOR = Simulator(
    name="transfer",
    claim="DUPN (KDD 2018), section 5.4: a new task gains from the representation that other tasks trained; "
    "fine-tuning it gains most.",
    world="Tastes show only in the behaviour sequence; four tasks label every impression, the fifth a share of them.",
    comparisons=(
        *(Claim(setting, way, "retrain_single", "rank correlation") for setting in ASKED for way in list(WAYS)[1:]),
        *(
            Claim(setting, way, other, "rank correlation")
            for setting in ASKED
            for way, other in product(FINE_TUNED, NOT_FINE_TUNED)
        ),
    ),
    run=run,
)
