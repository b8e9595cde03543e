"""Simulator (e), delayed conversions: the log ends before all conversions have come, and delays depend on features."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.metrics import auc
from models.simulators.base import (
    Claim,
    Result,
    Simulator,
    divergence,
    recipe_of,
    scores_on_test,
    sigmoid,
    write_tables,
)

IMPRESSIONS = 60_000  # during the log
DAYS = 20.0
BEFORE = 14.0  # days before the log, whose late conversions come during it
WINDOW = 12.0  # days after which an impression without a conversion counts as none
OBSERVED = 0.5  # days after which an impression is labelled for the first time
TRAITS = 3
ITEMS = 300
FEATURES = {
    "item_id_feature": "item_id",
    "user": [{"name": f"trait_{i}", "type": "numeric"} for i in range(TRAITS)],
    "item": [{"name": "item_id", "type": "categorical"}],
}
PLAIN = {"type": "esmm", "click": "click", "conversion": "conversion"}
BY_AGE = {"age": "age_s", "delay": "delay_s"}
TASKS: Mapping[str, Mapping[str, Any]] = {
    "naive": PLAIN,
    "closed windows and early conversions": PLAIN,
    "wait": PLAIN,
    "delayed_feedback": PLAIN | {"delay": {"type": "delayed_feedback", **BY_AGE}},
    "elapsed_weights": PLAIN | {"delay": {"type": "elapsed_weights", **BY_AGE}},
    "repeated, no weights": PLAIN,
    "fake_negatives": PLAIN | {"delay": {"type": "fake_negatives", "late": "late"}},
    "all labels known": PLAIN,
}
DAY_S = 86_400.0
SETTINGS = {"delays depend on features": True, "one distribution of delays": False}


def world(rng: np.random.Generator, n: int, dependent: bool) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """The users and items, and every impression with its time, its delay and the truth; `n` of them during the log.

    logit pctr = -0.5 + b_i / 2; logit pcvr = -1.5 + 0.8 b_i + 0.7 x_u0 + 0.5 x_u1; the delay after an impression is
    exponential with a mean of 2 exp(0.6 x_u0 + 0.5 e_i) days, or of 2 days for all; with it, whoever converts most
    takes longest. A third of the items is new in the last week of the log.
    """
    x = rng.normal(size=(2000, TRAITS))
    items = rng.normal(size=(ITEMS, 2))
    n_all = round(n * (BEFORE + DAYS + 1) / DAYS)
    time = rng.uniform(-BEFORE, DAYS + 1, n_all)
    old = ITEMS * 2 // 3
    item = np.where(time < DAYS - 7, rng.integers(0, old, n_all), rng.integers(0, ITEMS, n_all))
    user = rng.integers(0, len(x), n_all)
    b = items[item, 0]
    e = items[item, 1]
    pctr = sigmoid(-0.5 + 0.5 * b)
    pcvr = sigmoid(-1.5 + 0.8 * b + 0.7 * x[user, 0] + 0.5 * x[user, 1])
    mean_days = 2.0 * np.exp(0.6 * x[user, 0] + 0.5 * e).clip(max=3.0) if dependent else np.full(n_all, 2.0)
    click = rng.random(n_all) < pctr
    bought = click & (rng.random(n_all) < pcvr)
    delay = rng.exponential(mean_days)
    impressions = pd.DataFrame({"user_id": user, "item_id": item, "day": time, "click": click.astype(int)})
    impressions["bought"] = bought
    impressions["delay"] = delay
    impressions["truth"] = pctr * pcvr
    users = pd.DataFrame({"user_id": np.arange(len(x))} | {f"trait_{i}": x[:, i] for i in range(TRAITS)})
    return {"users": users, "items": pd.DataFrame({"item_id": np.arange(ITEMS)})}, impressions


def tables_of(model: str, impressions: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """The table that a way to count conversions trains on; validation and test, the same for all, are `known`."""
    during = impressions[(impressions.day >= 0) & (impressions.day < DAYS)].copy()
    age = DAYS - during.day
    during["late"] = 0
    during["conversion"] = (during.bought & (during.delay < age)).astype(int)
    if model == "all labels known":
        during["conversion"] = during.bought.astype(int)
    elif model == "wait":
        during = during[age > WINDOW]
    elif model == "closed windows and early conversions":
        during = during[(age > WINDOW) | (during.conversion > 0)]
    elif model in ("repeated, no weights", "fake_negatives"):
        during = _stream(impressions)
    return pd.concat([with_times(during).assign(part="train"), known], ignore_index=True)


def _stream(impressions: pd.DataFrame) -> pd.DataFrame:
    """What arrives during the log: each impression after `OBSERVED` days, and again at a later conversion."""
    first = impressions[impressions.day.between(-OBSERVED, DAYS - OBSERVED)].copy()
    first["late"] = 0
    first["conversion"] = (first.bought & (first.delay <= OBSERVED)).astype(int)
    converted = impressions.day + impressions.delay
    late = impressions[impressions.bought & (impressions.delay > OBSERVED) & converted.between(0, DAYS)].copy()
    late["late"] = 1
    late["conversion"] = 1
    return pd.concat([first, late])


def with_times(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with their ages and delays in seconds."""
    age_s = (DAYS - rows.day).clip(lower=0) * DAY_S
    delay_s = np.where(rows.conversion > 0, rows.delay * DAY_S, 0.0)
    return rows.assign(age_s=age_s, delay_s=delay_s, time_ms=((rows.day + BEFORE) * DAY_S * 1000).astype("int64"))


def run(seed: int, size: float, folder: Path) -> Result:
    result: Result = {}
    for setting, dependent in SETTINGS.items():
        rng = np.random.default_rng([5, seed, int(dependent)])
        tables, impressions = world(rng, int(IMPRESSIONS * size), dependent)
        # The day after the log is the test; as many matured rows select the weights of every model alike.
        after = impressions[impressions.day >= DAYS]
        matured = impressions[impressions.day < 0].head(len(after))
        known = pd.concat([matured.assign(part="validation"), after.assign(part="test")])
        known = with_times(known.assign(late=0, conversion=known.bought.astype(int)))
        truth = after.truth.to_numpy()
        for number, (model, task) in enumerate(TASKS.items()):
            place = folder / f"{int(dependent)}-{number}"
            write_tables(place, tables | {"impressions": tables_of(model, impressions, known)})
            network = {"architecture": "esmm", "trunk": {"type": "separate", "hidden": [32]}}
            raw = recipe_of("delay", FEATURES, [task], network, training={"select_on": ["pctcvr"], "epochs": 4})
            p = scores_on_test(raw, place, seed)["pctcvr"]
            bias = float(p.mean() / truth.mean() - 1)
            result[setting, model] = {
                "predicted / true - 1": bias,
                "size of the bias": abs(bias),
                "AUC of pctcvr": float(auc(after.bought.to_numpy().astype(np.float32), p) or 0),
                "divergence": divergence(truth, p),
            }
    return result


def _comparisons() -> Iterator[Claim]:
    for setting in SETTINGS:
        for model in ("wait", *_CORRECTED):
            yield Claim(setting, model, "naive", "size of the bias", less=True)
            yield Claim(setting, model, "naive", "AUC of pctcvr")
        for model in _CORRECTED:
            yield Claim(setting, model, "wait", "size of the bias", less=True)
            yield Claim(setting, model, "wait", "AUC of pctcvr")
        yield Claim(setting, "wait", "closed windows and early conversions", "size of the bias", less=True)


_CORRECTED = ("delayed_feedback", "elapsed_weights", "fake_negatives")
SIMULATOR = Simulator(
    name="delay",
    claim="Delayed feedback: a model of the delay (KDD 2014), weights by elapsed time (WWW 2020) and weights for fake "
    "negatives (ES-DFM, AAAI 2021) remove the bias of conversions that have not come yet, and beat waiting.",
    world="Impressions of 20 days, a third of the items new in the last week; the log ends, conversions go on; windows "
    "of 12 days. Waiting leaves out every row whose window is open. The weights of all models are selected on the "
    "same matured rows from before the log, and the test is the day after it.",
    comparisons=(*_comparisons(),),
    run=run,
)
