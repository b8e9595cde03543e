"""Compares each candidate's numbers with those of the request's other candidates: difference from the mean,
and rank.
"""

from dataclasses import dataclass

import numpy as np

from features.packing.rows import RowLayout
from features.schemas.schema import FeatureSchema, Numeric

WITHIN = "within"  # the name of the group in training; the graph's input is `item_within`
INPUT = "item_within"
_LARGEST = float(np.finfo(np.float32).max)

# Shape legend: C candidates of one request, N numeric item features, K of them that are compared.


@dataclass(frozen=True)
class ComparedColumns:
    """The numeric item features with `within_request`, in the schema's order.

    `columns` int64 `[K]` in the item row's numerics; `log1p` bool `[K]`: compared after signed log1p.
    """

    names: tuple[str, ...]
    columns: np.ndarray
    log1p: np.ndarray

    @classmethod
    def of(cls, schema: FeatureSchema) -> "ComparedColumns":
        """The compared columns of a schema; most schemas have none."""
        layout = RowLayout(schema.item)
        features = [f for f in schema.item if isinstance(f, Numeric) and f.within_request]
        columns = [layout.numeric_columns[f.name] for f in features]
        log1p = [f.transform == "log1p" for f in features]
        return cls(tuple(f.name for f in features), np.array(columns, np.int64), np.array(log1p, bool))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def titles(self) -> tuple[str, ...]:
        """A name for each column of the input."""
        return tuple(f"{name} {measure}" for measure in ("less mean", "rank") for name in self.names)


def within_request(compared: ComparedColumns, item_numerics: np.ndarray) -> np.ndarray:
    """The input `item_within` float32 `[C, 2K]` from all candidates of one request, numerics float32 `[C, N]`.

    The first K columns are each value minus the mean of the present values. The others are (rank - 1/2) / n among the n
    present values, between 0 and 1, where ties share their mean rank; a single candidate has difference 0 and rank 1/2.
    The result is NaN if the value is missing. The bits do not depend on the order of the candidates, because the sum
    runs over sorted values.
    """
    raw = item_numerics[:, compared.columns].astype(np.float64)
    values = np.where(compared.log1p, np.sign(raw) * np.log1p(np.abs(raw)), raw)
    order = np.argsort(values, axis=0, kind="stable")  # NaN last
    ordered = np.take_along_axis(values, order, axis=0)
    present = ~np.isnan(ordered)
    count = np.maximum(present.sum(0), 1)
    mean = np.where(present, ordered, 0.0).sum(0) / count
    # A run of equal values shares the mean of its first and last place.
    place = np.arange(len(values))[:, None]
    begins = np.ones_like(present)
    begins[1:] = ordered[1:] != ordered[:-1]
    ends = np.ones_like(present)
    ends[:-1] = begins[1:]
    first = np.maximum.accumulate(np.where(begins, place, 0), axis=0)
    last = np.minimum.accumulate(np.where(ends, place, len(values))[::-1], axis=0)[::-1]
    ranks = np.empty_like(values)
    np.put_along_axis(ranks, order, np.where(present, ((first + last) / 2 + 0.5) / count, np.nan), axis=0)
    differences = np.clip(values - mean, -_LARGEST, _LARGEST)
    return np.concatenate([differences, ranks], axis=1).astype(np.float32)
