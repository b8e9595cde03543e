"""Draws a few raw rows of the encoded data, which the exporter uses to try graphs and to make golden requests."""

from collections.abc import Mapping

import numpy as np

from features.layouts import COUNTER_INPUT
from models.data.encoding.packed import PackedPart, item_key_columns, item_numeric_columns
from models.recipe import Recipe

IMPRESSIONS = 512
EVENTS = 2048
SEED = 7


def raw_rows(recipe: Recipe, part: PackedPart) -> dict[str, np.ndarray]:
    """Draw raw keys and numerics from a part, by graph input name.

    Users, contexts, items and request times of some impressions `[n, ...]`, and behaviours that they see `[m, ...]`.
    """
    # Entities, contexts and times of some impressions.
    rng = np.random.default_rng(SEED)
    picked = np.sort(rng.permutation(len(part.user))[:IMPRESSIONS])
    groups: Mapping[str, np.ndarray] = {
        "user": part.users[part.user[picked]],
        "context": part.context[picked],
        "candidate": part.candidate[picked],
        "item": part.items[part.item[picked]],
    }
    rows_of_inputs = {
        f"{group}_{field}": np.array(rows[field]) for group, rows in groups.items() for field in ("keys", "numerics")
    }
    if part.counters is not None:
        rows_of_inputs[COUNTER_INPUT] = np.array(part.counters[picked])
    rows_of_inputs["request_time"] = np.array(part.time[picked])
    if part.events is None:
        return rows_of_inputs
    # Some of the behaviours that these impressions see.
    seen = [np.arange(part.start[i], part.end[i]) for i in picked]
    every = np.concatenate([np.zeros(0, np.int64), *seen])
    events = part.events[np.sort(rng.permutation(every)[:EVENTS])]
    items = part.items[events["item"]]
    properties = np.stack([events["action"], events["scene"]], axis=1)
    rows_of_inputs["behaviour_keys"] = np.concatenate([items["keys"][:, item_key_columns(recipe)], properties], axis=1)
    rows_of_inputs["behaviour_numerics"] = np.array(items["numerics"][:, item_numeric_columns(recipe)])
    rows_of_inputs["behaviour_times"] = np.array(events["time"])
    return rows_of_inputs
