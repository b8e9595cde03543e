"""Scores a run's impressions, writes the scores to a file, and compares them with those of a running service."""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from features.files.writing import replacing
from models.data.cache import DEFAULT_CACHE
from models.prediction.replay import TOLERANCE, ReplayError, ReplayResult, replay
from models.prediction.rows import score_run


def predict(
    run: Path, part: str = "test", out: Path | None = None, against: str | None = None, cache: Path = DEFAULT_CACHE
) -> Iterator[str]:
    """Write a part's scores to `out` (RUN/predictions-<part>.parquet), and replay the part to the service `against`.

    Returns lines to print. Raises RunError, and ReplayError if the service does not answer or scores differently.
    """
    path = out or run / f"predictions-{part}.parquet"
    rows = score_run(run, part, cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        pq.write_table(rows.table(), unfinished)
    yield f"{len(rows):,} impressions: {path}"
    if against is None:
        return
    compared = replay(rows, against)
    yield from lines(compared)
    if compared.differing:
        raise ReplayError(difference(compared))


def difference(compared: ReplayResult) -> str:
    """Explain a difference: where it is, and where to look for the cause."""
    return (
        f"the service scores differently: {compared.differing:,} of {compared.requests:,} requests by more than"
        f" {TOLERANCE:g}, the first of {compared.first_differing}. It holds other features or another version, or fewer"
        " behaviours: the store keeps the newest 2 x max_length of a user, so that one with more than max_length"
        " behaviours after that time is ranked with fewer than in training"
    )


def lines(compared: ReplayResult) -> Iterator[str]:
    """Format a comparison as lines for the terminal."""
    yield f"{compared.impressions:,} impressions in {compared.requests:,} requests to {compared.model}"
    for reason, count in sorted(compared.degraded.items()):
        yield f"degraded: {reason} in {count:,} requests"
    for name, largest in compared.largest.items():
        yield f"{name:<28} largest difference {largest:.2e}"


if __name__ == "__main__":  # `python -m models.predict` is `funnelrank predict`
    sys.argv.insert(1, "predict")
    runpy.run_module("funnelrank", run_name="__main__")
