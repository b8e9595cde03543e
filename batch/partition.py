"""Writes a partition's rankings as one Parquet file, whole or not at all, and reads what it counts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch.errors import BatchError
from features.files.writing import replacing
from service.ranking.query import Ranking

_COUNTS = b"funnelrank.counts"
_NAME = "part-{:06d}.parquet"


@dataclass(frozen=True)
class RankedUser:
    """One user's ranking: `scores` float64 `[k]`, `predictions` float32 `[tasks, k]`. `pairs` counts the candidates.

    `outputs` are the requested vectors of the user, float32 `[D]` each, by name.
    """

    user: str
    items: Sequence[str]
    scores: np.ndarray
    predictions: np.ndarray
    tasks: tuple[str, ...]
    model: str
    profile: str
    degraded: list[str]
    pairs: int
    outputs: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, user: str, ranking: Ranking, outputs: Mapping[str, np.ndarray]) -> "RankedUser":
        """Keep of a ranking what is written, so that its inputs can be freed."""
        ranked = ranking.ranked
        return cls(
            user,
            ranked.item_ids,
            ranked.scores,
            ranked.predictions,
            tuple(ranking.live.bundle.tasks),
            ranking.live.bundle.label,
            ranking.formula.profile,
            list(map(str, ranking.degraded)),
            ranking.computation.coverage[0],
            outputs,
        )


@dataclass(frozen=True)
class BatchCounts:
    """What a partition, or a run, has ranked. `cpu_s` are CPU seconds of the scoring process."""

    users: int = 0
    pairs: int = 0
    rows: int = 0
    degraded: int = 0
    cpu_s: float = 0.0

    @classmethod
    def of(cls, ranked: Sequence[RankedUser], cpu_s: float) -> "BatchCounts":
        """Count a partition's rankings."""
        pairs = sum(entry.pairs for entry in ranked)
        rows = sum(len(entry.items) for entry in ranked)
        return cls(len(ranked), pairs, rows, sum(bool(entry.degraded) for entry in ranked), round(cpu_s, 6))

    def __add__(self, other: "BatchCounts") -> "BatchCounts":
        return BatchCounts(*map(sum, zip(astuple(self), astuple(other), strict=True)))


def path_of(out: Path, number: int) -> Path:
    """Return the file of a partition."""
    return out / _NAME.format(number)


def table_of(ranked: Sequence[RankedUser], tasks: Sequence[str]) -> pa.Table:
    """Return one row per ranked item. A score or prediction that the model did not give is null, as in JSON."""
    lengths = np.array([len(entry.items) for entry in ranked], dtype=np.int64)
    places = np.repeat(np.arange(len(ranked)), lengths)

    def per_user(values: list[str]) -> pa.Array:
        # As a dictionary a user's values cost one number per row, and are written so.
        return pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), pa.array(values, pa.string()))

    items = [item for entry in ranked for item in entry.items]
    ranks = np.concatenate([np.arange(1, n + 1) for n in lengths]) if len(ranked) else np.zeros(0, np.int64)
    scores = np.concatenate([entry.scores for entry in ranked]) if len(ranked) else np.zeros(0)
    predictions = [_predictions_of(ranked, task) for task in tasks]
    degraded = pa.array([entry.degraded for entry in ranked], pa.list_(pa.string())).take(pa.array(places))
    return pa.table(
        {
            "user_id": per_user([entry.user for entry in ranked]).dictionary_decode(),
            "item_id": pa.array(items, pa.string()),
            "rank": pa.array(ranks, pa.int32()),
            "score": pa.array(scores, pa.float64(), from_pandas=True),
            "predictions": pa.StructArray.from_arrays(predictions, names=list(tasks)),
            "model": per_user([entry.model for entry in ranked]).dictionary_decode(),
            "profile": per_user([entry.profile for entry in ranked]).dictionary_decode(),
            "degraded": degraded,
        }
    )


def _predictions_of(ranked: Sequence[RankedUser], task: str) -> pa.Array:
    """Return one task's predictions; null where the user's version does not have the task."""
    parts = [np.zeros(0, np.float32)]
    for entry in ranked:
        known = task in entry.tasks
        missing = np.full(len(entry.items), np.nan, np.float32)
        parts.append(entry.predictions[entry.tasks.index(task)] if known else missing)
    return pa.array(np.concatenate(parts), pa.float32(), from_pandas=True)


def write_partition(out: Path, number: int, table: pa.Table, counts: BatchCounts) -> None:
    """Write a partition's file, which appears when it is complete. Raises OSError."""
    metadata = {_COUNTS: json.dumps(asdict(counts)).encode()}
    with replacing(path_of(out, number)) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")


def read_counts(path: Path) -> BatchCounts | None:
    """Return the counts of a partition; None if it is not written yet. Raises BatchError for a damaged file."""
    if not path.exists():
        return None
    try:
        metadata = pq.read_schema(path).metadata or {}
        return BatchCounts(**json.loads(metadata[_COUNTS]))
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise BatchError(f"{path}: not a partition of a batch run ({error}); remove it to write it again") from None


def remove_leftovers(out: Path) -> None:
    """Remove the files that a killed run left unfinished."""
    for name in ("part", "users"):
        for path in out.glob(f".{name}-*.parquet.*"):
            path.unlink(missing_ok=True)
