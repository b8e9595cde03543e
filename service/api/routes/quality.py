"""Answers `GET /quality`: the newest report of `funnelrank quality`, from the file that a setting names."""

from pathlib import Path
from typing import Any

import orjson
from fastapi import APIRouter
from fastapi.responses import Response

from service.api.fields import ResponseBody
from service.api.openapi import refuses
from service.api.problems import NotFound
from service.api.services import Worker
from service.files import read_regular, run_limited

router = APIRouter(tags=["models"])
_READ_SECONDS = 5.0
_MOST_BYTES = 64 << 20


class QualityReport(ResponseBody):
    """The document of `quality.json`: docs/quality.md says what its figures are.

    The lists hold one object per version, task, scene and arm (`cells`), per day, per position, per feature (`drift`).
    """

    format: int
    model: str
    watermark_ms: int
    days: float
    impressions: int
    join_rate: float | None
    cells: list[dict[str, Any]]
    by_day: list[dict[str, Any]]
    by_position: list[dict[str, Any]]
    invariants: list[dict[str, Any]]
    alarms: list[dict[str, Any]]
    drift: list[dict[str, Any]]
    drift_notes: list[str]
    empty_days: list[str]
    not_logged: list[str]


@router.get(
    "/quality",
    summary="What served rankings predicted against what users did",
    response_model=QualityReport,
    responses=refuses(NotFound),
)
async def quality(worker: Worker) -> Response:
    """Return the report that `funnelrank quality` wrote last. Nothing is computed here."""
    path = worker.settings.quality_file
    if path is None:
        raise NotFound(
            "there is no quality report: run `funnelrank quality --out quality.html`, and set FUNNELRANK_QUALITY_FILE "
            "to the quality.json that it writes"
        )
    try:
        return await run_limited(lambda: _report(path), _READ_SECONDS, "the quality report")
    except OSError as error:
        reason = error.strerror or str(error)
        raise NotFound(f"the quality report {path} cannot be read ({reason}): `funnelrank quality` writes it") from None


def _report(path: Path) -> Response:
    """Read the report. Raises OSError, and NotFound if the file is something else."""
    content = read_regular(path, _MOST_BYTES)
    try:
        report = orjson.loads(content)
    except ValueError:
        report = None
    # A report of another release may have other fields; the format says which.
    if not isinstance(report, dict) or "format" not in report or "cells" not in report:
        raise NotFound(f"{path} is no report of `funnelrank quality`; set FUNNELRANK_QUALITY_FILE to its .json")
    # The content itself: writing a large document anew would hold up rankings.
    return Response(content, media_type="application/json")
