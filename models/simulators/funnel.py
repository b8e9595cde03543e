"""Simulator (b), the post-click funnel: click, then cart or wish, then purchase, at falling purchase rates."""

from pathlib import Path

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

IMPRESSIONS = 80_000
USERS = 3000
ITEMS = 600
TRAITS = 3
RATES = {"purchase rate x 1": 0.0, "purchase rate x 1/3": np.log(1 / 3), "purchase rate x 1/10": np.log(1 / 10)}
FEATURES = {
    "item_id_feature": "item_id",
    "user": [{"name": f"trait_{i}", "type": "numeric"} for i in range(TRAITS)],
    "item": [{"name": "item_id", "type": "categorical"}],
}
MODELS = {
    "ESMM": ("esmm", [{"type": "esmm", "click": "click", "conversion": "purchase"}], ["pctr", "pctcvr"]),
    "ESM2": (
        "esm2",
        [{"type": "esm2", "click": "click", "action": "cart", "conversion": "purchase"}],
        ["pctr", "pctavr", "pctcvr"],
    ),
}


def world(rng: np.random.Generator, n: int, shift: float) -> tuple[dict[str, pd.DataFrame], dict[str, np.ndarray]]:
    """Generate tables, and the true pcvr and pctcvr of every impression.

    y1 = p(click), y2 = p(cart | click), y3 = p(purchase | cart), y4 = p(purchase | click, no cart). Each logit is the
    sum of a term of the item, a match of traits, and a random term of the item; y3 is about thirty times y4, as is
    usual for carts. `shift` moves the logits of y3 and y4.
    """
    # Users and items have traits; impressions are pairs drawn at random.
    x = rng.normal(size=(USERS, TRAITS))
    v = rng.normal(size=(2, ITEMS, TRAITS)) * 0.6
    item_effects = rng.normal(size=(4, ITEMS)) * 0.5
    user = rng.integers(0, USERS, n)
    item = rng.integers(0, ITEMS, n)
    liking, need = ((x[user] * v[k][item]).sum(1) for k in (0, 1))
    # The true probability of each step of the funnel.
    y1 = sigmoid(-1.8 + item_effects[0][item] + liking)
    y2 = sigmoid(-2.0 + item_effects[1][item] + need + 0.3 * liking)
    y3 = sigmoid(-0.7 + shift + item_effects[2][item] + 0.3 * need)
    y4 = sigmoid(-4.5 + shift + item_effects[3][item] + 0.3 * need)
    pcvr = (1 - y2) * y4 + y2 * y3
    # Draw what happened.
    click = rng.random(n) < y1
    cart = click & (rng.random(n) < y2)
    purchase = click & (rng.random(n) < np.where(cart, y3, y4))
    # The tables, as a recipe reads them.
    impressions = pd.DataFrame({"user_id": user, "item_id": item, "time_ms": np.arange(n), "part": part_column(rng, n)})
    impressions["click"] = click.astype(int)
    impressions["cart"] = cart.astype(int)
    impressions["purchase"] = purchase.astype(int)
    users = pd.DataFrame({"user_id": np.arange(USERS)} | {f"trait_{i}": x[:, i] for i in range(TRAITS)})
    tables = {"users": users, "items": pd.DataFrame({"item_id": np.arange(ITEMS)}), "impressions": impressions}
    return tables, {"pcvr": pcvr, "pctcvr": y1 * pcvr}


def run(seed: int, size: float, folder: Path) -> Result:
    result: Result = {}
    for setting, shift in RATES.items():
        tables, truth = world(np.random.default_rng([2, seed]), int(IMPRESSIONS * size), shift)
        place = folder / f"{len(result)}"
        write_tables(place, tables)
        test = (tables["impressions"]["part"] == "test").to_numpy()
        for name, (architecture, tasks, select_on) in MODELS.items():
            model = {"architecture": architecture, "trunk": {"type": "separate", "hidden": [32]}}
            raw = recipe_of(f"funnel-{architecture}", FEATURES, tasks, model, training={"select_on": select_on})
            scores = scores_on_test(raw, place, seed)
            result[setting, name] = {
                "purchases": float(tables["impressions"]["purchase"].sum()),
                "pcvr rank correlation": rank_correlation(scores["pcvr"], truth["pcvr"][test]),
                "pctcvr rank correlation": rank_correlation(scores["pctcvr"], truth["pctcvr"][test]),
                "pctcvr divergence": divergence(truth["pctcvr"][test], scores["pctcvr"]),
            }
    return result


SIMULATOR = Simulator(
    name="funnel",
    claim="ESM2 (SIGIR 2020): decomposing the post-click behaviour helps where conversions are sparse, so its lead "
    "over ESMM grows as they fall.",
    world="Known y1 to y4; a purchase is about thirty times likelier after a cart.",
    comparisons=tuple(
        Claim(setting, "ESM2", "ESMM", measure)
        for setting in RATES
        for measure in ("pcvr rank correlation", "pctcvr rank correlation")
    ),
    run=run,
)
