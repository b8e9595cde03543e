"""Reads single exposures of a log: of the hours that are compacted, and of the files that are not."""

from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from features import FeatureSchema
from features.layouts import Layouts
from loop.errors import LogError
from loop.log.hours import hour_files, opened_parquet
from loop.log.streams import batches, checked
from service.exposures.folder import FEATURE_SCHEMAS, SPOOL
from tables.log_records import SCHEMAS, RecordKind

Exposure = Mapping[str, Any]
_BATCH = 64  # records that are read at once: one exposure may have a MiB


def pages_of(log: Path, request_id: str) -> list[Exposure]:
    """The exposures of a request, one per page of its list, in order; the first record of a page counts.

    Reads the ids of the whole log, and the wide columns only where the request is. Raises LogError if the log has none.
    """
    records = [*_of_hours(log, request_id), *_of_spool(log, request_id)]
    if not records:
        raise LogError(
            f"the log has no exposure of the request '{request_id}': it was not sampled, was removed by retention, or "
            "its answer was an error"
        )
    pages: dict[int, Exposure] = {}
    for record in sorted(records, key=lambda each: each["logged_ms"]):
        pages.setdefault(record["ranked_before"] or 0, record)
    return [pages[before] for before in sorted(pages)]


def _of_hours(log: Path, request_id: str) -> Iterator[Exposure]:
    for path in hour_files(log, RecordKind.EXPOSURES):
        with opened_parquet(path) as file:
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["request_id"]).column("request_id")
                places = _places(ids, request_id)
                if len(places):
                    yield from _rows(file.read_row_group(group), places)


def _of_spool(log: Path, request_id: str) -> Iterator[Exposure]:
    for path in sorted((log / SPOOL).glob(f"{RecordKind.EXPOSURES.value}-*")):
        for batch in batches(checked(path)):
            yield from _rows(batch, _places(batch.column("request_id"), request_id))


def _places(ids: pa.ChunkedArray | pa.Array, request_id: str) -> pa.Array:
    return pc.indices_nonzero(pc.fill_null(pc.equal(ids, request_id), False))


def _rows(records: pa.Table | pa.RecordBatch, places: pa.Array) -> Iterator[Exposure]:
    """The records at some places, with every column of this release: those that an earlier one lacked are null."""
    nothing = dict.fromkeys(SCHEMAS[RecordKind.EXPOSURES].names)
    for place in places.to_pylist():
        row: Exposure = records.slice(place, 1).to_pylist()[0]
        yield {**nothing, **row}


def exposures_of(log: Path, hours: Collection[str] | None = None) -> Iterator[Exposure]:
    """Every compacted exposure, oldest hour first; those of some `hours` alone if they are named."""
    for path in hour_files(log, RecordKind.EXPOSURES):
        if hours is not None and path.parent.name not in hours:
            continue
        with opened_parquet(path) as file:
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
