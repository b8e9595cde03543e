"""The encoding, fitted on the training part: the vocabulary, and the numerics' mean, deviation and bins."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features import FeatureSchema, Numeric
from features.files.writing import replacing
from features.schemas.schema import COUNTER, DERIVED
from features.within_request import WITHIN
from models.data.encoding.vocabulary import Vocabulary, grown, totalled

GROUPS = ("user", "context", "item", "behaviour")
CANDIDATE = "candidate"  # the group of the candidates' own features, which most schemas lack
NUMERIC_PARTS = ("mean", "deviation", "edges")
CHUNK = 1 << 16
AGE = "age"  # the behaviour's age, the one numeric that is derived (from request_time and behaviour_times)


@dataclass(frozen=True)
class NumericStats:
    """Statistics of a group's numeric columns over the training values that are present.

    `mean` and `deviation` float32 `[N]` are taken after the column's transform.

    `edges` float32 `[N, E]`: ascending edges of the raw values' bins, +inf where a column has fewer than E or no bins.
    """

    mean: np.ndarray
    deviation: np.ndarray
    edges: np.ndarray


@dataclass(frozen=True)
class Encoding:
    """The encoding: the vocabulary, and `numerics` by group.

    The behaviour group has one more column than the row's numerics: the age, which is last.

    The group `within`, where a schema compares item features within a request, has the columns of that comparison;
    the group `counter`, where a schema has counters, has their numbers; `derived` has those of derived features.
    """

    schema: FeatureSchema
    vocabulary: Vocabulary
    numerics: Mapping[str, NumericStats]

    def save(self, path: Path) -> None:
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            np.savez_compressed(file, **self._arrays())  # type: ignore[arg-type]

    def digest(self) -> str:
        """A hash of the whole encoding, hexadecimal."""
        content = hashlib.sha256()
        for name, array in sorted(self._arrays().items()):
            content.update(f"{name} {array.dtype.str} {array.shape}".encode())
            content.update(array.tobytes())
        return content.hexdigest()

    def _arrays(self) -> dict[str, np.ndarray]:
        described: dict[str, Any] = {
            "schema": self.schema.model_dump(mode="json"),
            "unknown_rows": dict(self.vocabulary.unknown_rows),
        }
        # Left out where nothing is hashed, so that the digest of earlier encodings stays.
        if self.vocabulary.buckets:
            described["buckets"] = dict(self.vocabulary.buckets)
        if self.vocabulary.hashes != 1:
            described["hashes"] = self.vocabulary.hashes
        arrays = {f"numerics/{g}/{part}": getattr(s, part) for g, s in self.numerics.items() for part in NUMERIC_PARTS}
        return arrays | {
            "keys": self.vocabulary.keys,
            "rows": self.vocabulary.rows,
            "described": np.array(json.dumps(described)),
        }


def continued(earlier: Encoding, fitted: Encoding) -> Encoding:
    """Continue an earlier encoding of the same schema with the keys of new days.

    The numerics' statistics stay the earlier ones, because the weights were trained on numbers scaled by them.
    """
    return Encoding(fitted.schema, grown(earlier.vocabulary, fitted.vocabulary), earlier.numerics)


def load_encoding(path: Path) -> Encoding:
    with np.load(path, allow_pickle=False) as stored:
        described = json.loads(str(stored["described"]))
        buckets = described.get("buckets", {})
        hashes = described.get("hashes", 1)
        vocabulary = Vocabulary(stored["keys"], stored["rows"], described["unknown_rows"], buckets, hashes)
        groups = [g for g in (*GROUPS, CANDIDATE, WITHIN, COUNTER, DERIVED) if f"numerics/{g}/mean" in stored]
        numerics = {g: NumericStats(*(stored[f"numerics/{g}/{part}"] for part in NUMERIC_PARTS)) for g in groups}
    return Encoding(FeatureSchema.model_validate(described["schema"]), vocabulary, numerics)


def transformed(values: np.ndarray, log1p: np.ndarray) -> np.ndarray:
    """Return numerics `[n, N]` with signed log1p applied to the columns selected by `log1p` bool `[N]`."""
    values = values.astype(np.float64)
    return np.where(log1p, np.sign(values) * np.log1p(np.abs(values)), values)


def log1p_columns(schema: FeatureSchema, group: str) -> np.ndarray:
    """Mask of a group's numeric columns with signed log1p, bool `[N]`. A behaviour's age is one of them."""
    features = schema.behaviour_item_features if group == "behaviour" else schema.group(group)
    flags = [f.transform == "log1p" for f in features if isinstance(f, Numeric)]
    return np.array([*flags, True] if group == "behaviour" else flags, dtype=bool)


def behaviour_age_s(request_time_ms: np.ndarray, behaviour_times_ms: np.ndarray) -> np.ndarray:
    """Age of behaviours at their request in seconds, float64 `[n]`, at least 0; NaN if the time is unknown (0)."""
    age_s = np.maximum(request_time_ms - behaviour_times_ms, 0) / 1000.0
    return np.where(behaviour_times_ms > 0, age_s, np.nan)


def standardisation(
    count: np.ndarray,
    total: np.ndarray,
    squares: np.ndarray,
    edges: np.ndarray,
    shift: np.ndarray | float = 0.0,
) -> NumericStats:
    """Mean and deviation from running sums per column, and the edges; a constant or empty column gets deviation 1.

    The sums are of values less `shift` `[N]`: near the mean, E[x^2] - E[x]^2 keeps its digits (Chan, Golub and LeVeque
    1983). A variance below the rounding of those sums, n * eps * mean^2, counts as constant.
    """
    n = np.maximum(count, 1)
    mean = total / n
    variance = squares / n - mean**2
    constant = variance <= n * np.finfo(np.float64).eps * mean**2
    deviation = np.sqrt(np.where(constant, 1.0, variance)).astype(np.float32)
    deviation = np.where(deviation > 0, deviation, 1.0)  # too small for a float32
    return NumericStats((shift + mean).astype(np.float32), deviation.astype(np.float32), edges)


def bins_of(schema: FeatureSchema, group: str, otherwise: int = 0) -> list[int]:
    """The number of bins of each numeric column of a group: its own setting, or `otherwise`. A behaviour's age has no
    bins.
    """
    features = schema.behaviour_item_features if group == "behaviour" else schema.group(group)
    bins = [f.bins or otherwise for f in features if isinstance(f, Numeric)]
    return [*bins, 0] if group == "behaviour" else bins


def no_edges(columns: int) -> np.ndarray:
    """Edges of columns without bins."""
    return np.zeros((columns, 0), dtype=np.float32)


def quantile_edges(values: np.ndarray, counts: np.ndarray, bins: list[int], ends: bool = False) -> np.ndarray:
    """Edges `[N, E]` of raw numerics float32 `[n, N]`, each row counted `counts` `[n]` times.

    If one value makes up over half of a column (mostly zero), it gets a bin of its own, and the quantiles are those of
    the other values; otherwise most quantiles would be this value. `ends`: the smallest and largest value are edges as
    well.
    """
    edges = [_column_edges(values[:, i], counts, n, ends) for i, n in enumerate(bins)]
    out = np.full((len(bins), max((len(e) for e in edges), default=0)), np.inf, dtype=np.float32)
    for i, column in enumerate(edges):
        out[i, : len(column)] = column
    return out


def _column_edges(values: np.ndarray, counts: np.ndarray, bins: int, ends: bool) -> np.ndarray:
    none = np.zeros(0, dtype=np.float32)
    if not bins:
        return none
    distinct, weight = totalled(_counted_values(values, counts), np.float32)
    if not len(distinct):
        return none
    edges = distinct[[0, -1]] if ends else np.zeros(0, dtype=np.float32)
    if weight.max() * 2 > weight.sum() and len(distinct) > 1:
        common = distinct[weight.argmax()]
        above = np.nextafter(common, np.float32(np.inf))
        edges = np.concatenate([edges, np.array([common, above], dtype=np.float32)])
        keep = distinct != common
        distinct = distinct[keep]
        weight = weight[keep]
    reached = np.searchsorted(np.cumsum(weight), np.arange(1, bins) / bins * weight.sum(), side="right")
    return np.unique(np.concatenate([edges, distinct[np.minimum(reached, len(distinct) - 1)]])).astype(np.float32)


def _counted_values(values: np.ndarray, counts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The present values `[n]` that are counted, chunk by chunk, with their counts."""
    for begin in range(0, len(values), CHUNK):
        chunk = values[begin : begin + CHUNK]
        weight = counts[begin : begin + CHUNK]
        used = (weight > 0) & ~np.isnan(chunk)
        yield chunk[used], weight[used]
