"""Simulator (g), batch normalisation beside sampled negatives: which impressions its statistics have to be of."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.data.batches import ordered_batches
from models.data.cache import Data
from models.metrics import auc
from models.network.model import MultiTaskModel
from models.simulators.base import (
    Claim,
    Result,
    Simulator,
    divergence,
    grouped_rank_correlation,
    part_column,
    recipe_of,
    sigmoid,
    trained,
    write_tables,
)
from models.training.evaluation import scores_of
from models.training.updates.averaging import estimate_statistics

IMPRESSIONS = 120_000
USERS = 1500
ITEMS = 400
TRAITS = 4
KEPT = 0.1  # the share of the training part's negatives that is not thrown away
FEATURES = {
    "item_id_feature": "item_id",
    "user": [{"name": f"trait_{i}", "type": "numeric"} for i in range(TRAITS)],
    "item": [
        {"name": "item_id", "type": "categorical"},
        *({"name": f"quality_{i}", "type": "numeric"} for i in range(TRAITS)),
    ],
}
CLICK = {"type": "independent", "name": "pctr", "label": "click"}
PLAIN = "no normalisation"
OF_TRAINING = "statistics of the training impressions"
OF_OTHERS = "statistics estimated anew on all impressions"
WHOLE = "all negatives"
SAMPLED = "a tenth of the negatives"
SETTINGS = {WHOLE: 1.0, SAMPLED: KEPT}


def world(rng: np.random.Generator, n: int, share: float) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Tables, and every impression with its truth; the training part has this `share` of its negatives.

    logit pctr = -3 + a match of traits and qualities + the sum of the qualities / 2, so that what is clicked has other
    features than what is shown.
    """
    x = rng.normal(size=(USERS, TRAITS))
    q = rng.normal(size=(ITEMS, TRAITS))
    user = rng.integers(0, USERS, n)
    item = rng.integers(0, ITEMS, n)
    truth = sigmoid(-3.0 + 0.5 * (x[user] * q[item]).sum(1) + 0.5 * q[item].sum(1))
    shown = pd.DataFrame({"user_id": user, "item_id": item, "time_ms": np.arange(n), "part": part_column(rng, n)})
    shown["click"] = (rng.random(n) < truth).astype(int)
    shown["truth"] = truth
    stays = (shown.part != "train") | (shown.click > 0) | (rng.random(n) < share)
    users = pd.DataFrame({"user_id": np.arange(USERS)} | {f"trait_{i}": x[:, i] for i in range(TRAITS)})
    items = pd.DataFrame({"item_id": np.arange(ITEMS)} | {f"quality_{i}": q[:, i] for i in range(TRAITS)})
    return {"users": users, "items": items, "impressions": shown[stays].drop(columns="truth")}, shown


def run(seed: int, size: float, folder: Path) -> Result:
    result: Result = {}
    for number, (setting, share) in enumerate(SETTINGS.items()):
        rng = np.random.default_rng([7, seed, number])
        tables, shown = world(rng, int(IMPRESSIONS * size), share)
        place = folder / str(number)
        write_tables(place, tables)
        test = shown[shown.part == "test"]
        plain, data = _trained("plain", [], share, place, seed)
        result[setting, PLAIN] = _measures(plain, data, test)
        normed, data = _trained("normed", ["trunk", "towers"], share, place, seed)
        result[setting, OF_TRAINING] = _measures(normed, data, test)
        # Validation has all impressions, as the ones online are.
        estimate_statistics(normed, partial(ordered_batches, data, "validation", 1024))
        result[setting, OF_OTHERS] = _measures(normed, data, test)
    return result


def _trained(name: str, batch_norm: list[str], share: float, place: Path, seed: int) -> tuple[MultiTaskModel, Data]:
    network: dict[str, Any] = {"architecture": "mmoe", "trunk": {"type": "mmoe", "expert_hidden": [32, 16]}}
    network |= {"batch_norm": batch_norm} if batch_norm else {}
    calibration = {"method": "none", "negative_sampling": {"pctr": share}}
    training = {"select_on": ["pctr"], "epochs": 4}
    return trained(recipe_of(name, FEATURES, [CLICK], network, calibration=calibration, training=training), place, seed)


def _measures(ranker: MultiTaskModel, data: Data, test: pd.DataFrame) -> dict[str, float]:
    p = np.exp(scores_of(ranker, data, "test")["pctr"].astype(np.float64))
    truth = test.truth.to_numpy()
    bias = float(p.mean() / truth.mean() - 1)
    return {
        "AUC": float(auc(test.click.to_numpy().astype(np.float32), p) or 0),
        "rank correlation inside users": grouped_rank_correlation(p, truth, test.user_id.to_numpy()),
        "predicted / true - 1": bias,
        "size of the bias": abs(bias),
        "divergence": divergence(truth, p),
    }


SIMULATOR = Simulator(
    name="batch_norm",
    claim="Batch normalisation helps the order; its statistics belong to the trained function, so after training on "
    "sampled negatives those of the sampled impressions are right with the usual correction of the probability, and "
    "those of all impressions, as they are online, are wrong.",
    world="Clicks have other features than impressions. The training part keeps all negatives or a tenth of them; "
    "validation and test are whole.",
    comparisons=(
        *(Claim(setting, OF_TRAINING, PLAIN, "AUC") for setting in SETTINGS),
        *(Claim(setting, OF_TRAINING, PLAIN, "rank correlation inside users") for setting in SETTINGS),
        *(Claim(setting, OF_TRAINING, PLAIN, "divergence", less=True) for setting in SETTINGS),
        Claim(SAMPLED, OF_TRAINING, OF_OTHERS, "size of the bias", less=True),
        Claim(SAMPLED, OF_TRAINING, OF_OTHERS, "divergence", less=True),
    ),
    run=run,
)
