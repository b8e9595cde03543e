"""Simulator (a), sample selection: pCVR is needed for every impression, but conversions follow clicks alone."""

from collections.abc import Iterator
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

IMPRESSIONS = 60_000
USERS = 3000
ITEMS = 600
TRAITS = 3
FEATURES = {
    "item_id_feature": "item_id",
    "user": [{"name": f"trait_{i}", "type": "numeric"} for i in range(TRAITS)],
    "item": [{"name": "item_id", "type": "categorical"}],
}
CLICK = {"type": "independent", "name": "pctr", "label": "click"}
ON_CLICKS = {"type": "independent", "name": "pcvr", "label": "conversion", "space": "click"}
BIAS = "size of the bias, all impressions"
COUNTERFACTUAL = ("ESCM2-IPS", "ESCM2-DR", "DCMT")
WEIGHT = 0.1  # of the loss of pCVR over all impressions, beside those of ESMM; at 1 its variance outweighs its gain
CHAIN = {"click": "click", "conversion": "conversion"}
MODELS: dict[str, tuple[str, list[dict[str, str]], list[str]]] = {
    "clicks only": ("single_task", [ON_CLICKS], ["pcvr"]),
    "clicks only, embeddings shared with a click task": ("single_task", [CLICK, ON_CLICKS], ["pctr", "pcvr"]),
    "ESMM": ("esmm", [CHAIN | {"type": "esmm"}], ["pctr", "pctcvr"]),
    "ESCM2-IPS": ("escm2", [CHAIN | {"type": "escm2", "estimator": "ips"}], ["pctr", "pctcvr"]),
    "ESCM2-DR": ("escm2", [CHAIN | {"type": "escm2", "estimator": "dr"}], ["pctr", "pctcvr"]),
    "DCMT": ("dcmt", [CHAIN | {"type": "dcmt"}], ["pctr", "pctcvr"]),
}


def world(rng: np.random.Generator, n: int) -> tuple[dict[str, pd.DataFrame], np.ndarray]:
    """Tables, and the true pCVR of every impression, clicked or not.

    logit pctr = -2.8 + b_i + x_u . v_i; logit pcvr = -2.2 + 0.7 b_i + 0.5 e_i + 0.7 x_u . v_i + 0.5 x_u1, with traits
    x_u seen and everything
    of the item hidden behind its id: what is clicked is also bought more, so clicks are no fair sample of impressions.
    """
    x = rng.normal(size=(USERS, TRAITS))
    items = rng.normal(size=(ITEMS, TRAITS + 2))
    user = rng.integers(0, USERS, n)
    item = rng.integers(0, ITEMS, n)
    affinity = (x[user] * items[item, :TRAITS]).sum(1) * 0.7
    b = items[item, TRAITS]
    e = items[item, TRAITS + 1]
    pctr = sigmoid(-2.8 + b + affinity)
    pcvr = sigmoid(-2.2 + 0.7 * b + 0.5 * e + 0.7 * affinity + 0.5 * x[user, 0])
    click = rng.random(n) < pctr
    conversion = click & (rng.random(n) < pcvr)
    impressions = pd.DataFrame({"user_id": user, "item_id": item, "time_ms": np.arange(n), "part": part_column(rng, n)})
    impressions["click"] = click.astype(int)
    impressions["conversion"] = conversion.astype(int)
    users = pd.DataFrame({"user_id": np.arange(USERS)} | {f"trait_{i}": x[:, i] for i in range(TRAITS)})
    return {"users": users, "items": pd.DataFrame({"item_id": np.arange(ITEMS)}), "impressions": impressions}, pcvr


def run(seed: int, size: float, folder: Path) -> Result:
    rng = np.random.default_rng([1, seed])
    tables, truth = world(rng, int(IMPRESSIONS * size))
    write_tables(folder, tables)
    test = (tables["impressions"]["part"] == "test").to_numpy()
    clicked = tables["impressions"]["click"].to_numpy()[test] > 0
    truth = truth[test]
    result: Result = {}
    for name, (architecture, tasks, select_on) in MODELS.items():
        model = {"architecture": architecture, "trunk": {"type": "separate", "hidden": [32]}}
        training: dict[str, Any] = {"select_on": select_on}
        training |= {"loss_weights": {"pcvr": WEIGHT}} if name in COUNTERFACTUAL else {}
        raw = recipe_of(f"selection-{len(result)}", FEATURES, tasks, model, training=training)
        pcvr = scores_on_test(raw, folder, seed)["pcvr"]
        bias = float(pcvr.mean() / truth.mean() - 1)
        result["", name] = {
            "rank correlation, all impressions": rank_correlation(pcvr, truth),
            "divergence, all impressions": divergence(truth, pcvr),
            "rank correlation, clicks": rank_correlation(pcvr[clicked], truth[clicked]),
            "divergence, clicks": divergence(truth[clicked], pcvr[clicked]),
            "predicted / true - 1, all impressions": bias,
            BIAS: abs(bias),
        }
    return result


def _over_esmm() -> Iterator[Claim]:
    for model in COUNTERFACTUAL:
        yield Claim("", model, "ESMM", _CLAIMED)
        yield Claim("", model, "ESMM", "divergence, all impressions", less=True)
        yield Claim("", model, "ESMM", BIAS, less=True)


_CLAIMED = "rank correlation, all impressions"
SIMULATOR = Simulator(
    name="selection",
    claim="ESMM (SIGIR 2018): pCVR trained through pCTCVR over the entire space beats a conversion model trained on "
    "clicks alone. ESCM2 (SIGIR 2022): ESMM's pCVR is too high; a loss of pCVR over all impressions, weighted by "
    "inverse propensities (IPS) or doubly robust (DR), removes this bias. DCMT (ICDE 2023): so do twin towers that "
    "learn from clicks and from all other impressions.",
    world="Users' traits are seen, items are known by id; an item or match that is clicked more is also bought more.",
    comparisons=(
        Claim("", "ESMM", "clicks only", _CLAIMED),
        Claim("", "ESMM", "clicks only", "divergence, all impressions", less=True),
        Claim("", "ESMM", "clicks only, embeddings shared with a click task", _CLAIMED),
        Claim("", "ESMM", "clicks only, embeddings shared with a click task", "divergence, all impressions", less=True),
        *_over_esmm(),
    ),
    run=run,
)
