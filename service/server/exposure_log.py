"""Opens the exposure log of a worker. Only this module imports pyarrow, and only if there is a log."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from service.api.services import Log
from service.exposures.folder import keep_schema
from service.exposures.log import RecordLog
from service.metrics.metrics import Metrics
from service.ranking.exposure import KIND, Answered, ExposureLog, ExposurePacker, rows_of
from service.settings import Settings


def open_log(settings: Settings, metrics: Metrics) -> Log:
    """Create the log in `settings.log_folder`; its thread is not started yet."""
    from service.exposures.spool import Spool, SpoolLimits
    from tables.log_records import RecordKind, batch_of

    folder = settings.log_folder
    assert folder is not None
    packer = ExposurePacker(settings.score_chunk, settings.exposure_cut)
    batches: dict[str, Callable[[Sequence[Any]], Any]] = {
        KIND: partial(_exposures, folder, packer, partial(batch_of, RecordKind.EXPOSURES)),
        RecordKind.IMPRESSIONS: partial(batch_of, RecordKind.IMPRESSIONS),
        RecordKind.EVENTS: partial(batch_of, RecordKind.EVENTS),
    }
    limits = SpoolLimits(settings.exposure_roll_ms / 1000, settings.exposure_spool_mb << 20)
    spool = Spool(folder, batches, limits)
    records = RecordLog(spool)
    metrics.tallies.also(lambda: metrics.exposure_log.bring_over(records.counts(), spool.removed, records.queued))
    metrics.tallies.also(lambda: metrics.exposure_log.set_skews(spool.skews))
    metrics.tallies.also(lambda: metrics.exposure_log.set_shipped(spool.shipped))
    return Log(records, ExposureLog(records, settings.exposure_share))


def _exposures(
    folder: Path, packer: ExposurePacker, batch: Callable[[Sequence[Any]], Any], answered: Sequence[Answered]
) -> Any:
    """Return a record batch of rankings; their feature schemas are written first."""
    rows = rows_of(packer, answered)
    for name, document in packer.schemas.items():
        keep_schema(folder, name, document)
    return batch(rows)
