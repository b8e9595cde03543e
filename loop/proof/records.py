"""Reads single exposures of a log: of the hours that are compacted, and of the files that are not."""

from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import FeatureSchema
from features.layouts import Layouts
from loop.errors import LogError
from loop.log.hours import hour_files
from loop.log.streams import batches, checked
from service.exposures.folder import FEATURE_SCHEMAS, SPOOL
from tables.log_records import RecordKind

Exposure = Mapping[str, Any]
_BATCH = 64  # records that are read at once: one exposure may have a MiB


def exposure_of(log: Path, request_id: str) -> Exposure:
    """The first exposure of a request. Raises LogError if the log has none."""
    for path in hour_files(log, RecordKind.EXPOSURES):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                # The wide columns are read only where the request is.
                ids = file.read_row_group(group, columns=["request_id"]).column("request_id")
                place = pc.index(ids, request_id).as_py()
                if place >= 0:
                    row: Exposure = file.read_row_group(group).slice(place, 1).to_pylist()[0]
                    return row
    for path in sorted((log / SPOOL).glob(f"{RecordKind.EXPOSURES.value}-*")):
        for batch in batches(checked(path)):
            place = pc.index(batch.column("request_id"), request_id).as_py()
            if place >= 0:
                row = batch.slice(place, 1).to_pylist()[0]
                return row
    raise LogError(
        f"the log has no exposure of the request '{request_id}': it was not sampled, was removed by retention, or its "
        "answer was an error"
    )


def exposures_of(log: Path, hours: Collection[str] | None = None) -> Iterator[Exposure]:
    """Every compacted exposure, oldest hour first; those of some `hours` alone if they are named."""
    for path in hour_files(log, RecordKind.EXPOSURES):
        if hours is not None and path.parent.name not in hours:
            continue
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                yield from batch.to_pylist()


@lru_cache(maxsize=64)
def layouts_of(log: Path, schema: str) -> Layouts:
    """The layouts of a feature schema of the log. Raises LogError if it cannot be read."""
    path = log / FEATURE_SCHEMAS / f"{schema}.json"
    try:
        return Layouts.of(FeatureSchema.model_validate_json(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise LogError(f"the feature schema {path} cannot be read: {error}") from None
