"""Computes smoothed rates and counts per entity over a closed period, as features of later impressions."""

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Rates:
    """Rates of `labels` per value of `key`, as columns `<prefix>_impressions` and `<prefix>_<label>_rate`.

    `prior`: per label, how many impressions at the overall rate are added to every entity.
    """

    prefix: str
    key: str
    labels: dict[str, str]
    prior: dict[str, float]


def smoothed_rates(rows: pd.DataFrame, rates: Rates) -> pd.DataFrame:
    """One row per value of the key, which is the index: (positives + prior * overall rate) / (impressions + prior)."""
    grouped = rows.groupby(rates.key)
    n = grouped.size().astype(np.float32)
    out = pd.DataFrame({f"{rates.prefix}_impressions": n})
    for label, column in rates.labels.items():
        prior = rates.prior[label]
        overall = float(rows[column].mean()) if len(rows) else 0.0
        out[f"{rates.prefix}_{label}_rate"] = (
            ((grouped[column].sum() + prior * overall) / (n + prior)).round(4).astype(np.float32)
        )
    return out
