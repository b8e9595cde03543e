"""Measures each group of features: scores the test part with that group exchanged between impressions."""

from dataclasses import replace
from typing import Any

import numpy as np

from models.data.cache import Data, Part
from models.network.model import MultiTaskModel
from models.training.diagnostics.sampling import sampled
from models.training.evaluation import measure, scores_of

MOST_IMPRESSIONS = 50_000
COLUMNS = {
    "user": ("user",),
    "item": ("item",),
    "context": ("context_rows", "context_numerics"),
    "counters": ("counters",),
    "candidate": ("candidate_rows", "candidate_numerics"),
    "derived": ("derived_rows", "derived_numerics"),
    "behaviours": ("start", "end", "time"),
}


def ablation(model: MultiTaskModel, data: Data, seed: int) -> dict[str, Any]:
    """`{"impressions": n, "whole": {output: metrics}, "without": {group: {output: metrics}}}` on the test part.

    A group is removed by permuting it over the impressions (Breiman, Random Forests, 2001): its values keep their
    distribution and say nothing about the impression. If metrics are per user, users stay with their lists.
    """
    data = sampled(data, "test", MOST_IMPRESSIONS, seed)
    part = data.parts["test"]
    without = {}
    for group in _groups(data):
        order = np.random.default_rng([29, seed]).permutation(len(part))
        exchanged = replace(data, parts={**data.parts, "test": _exchanged(part, group, order)})
        without[group] = _figures(model, data, scores_of(model, exchanged, "test"))
    whole = _figures(model, data, scores_of(model, data, "test"))
    return {"impressions": len(part), "whole": whole, "without": without}


def _groups(data: Data) -> list[str]:
    schema = data.encoding.schema
    groups = [group for group in ("user", "item", "context", "candidate", "derived") if schema.group(group)]
    groups += ["counters"] if schema.counters else []
    return groups + (["behaviours"] if data.behaviours is not None else [])


def _exchanged(part: Part, group: str, order: np.ndarray) -> Part:
    columns = COLUMNS[group]
    if group == "item" and part.within is not None:
        columns += ("within",)
    return replace(part, **{name: getattr(part, name)[order] for name in columns})


def _figures(model: MultiTaskModel, data: Data, scores: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Select the few figures of each output that a table shows."""
    by_output = {}
    for name, measured in measure(model, data, "test", scores)["outputs"].items():
        gauc = (measured.get("gauc") or {}).get("value")
        figures = {"auc": measured.get("auc"), "gauc": gauc, "ndcg@10": measured.get("ndcg@10")}
        by_output[name] = figures | {"log_loss": measured.get("log_loss"), "rmse": measured.get("rmse")}
    return by_output
