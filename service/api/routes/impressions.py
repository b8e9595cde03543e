"""Answers `POST /impressions`: which items of a ranking came into view."""

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import ConfigDict, FailFast, Field, Strict

from features.counters import IMPRESSION
from features.keys import MAX_ID_CHARACTERS, text_of
from features.times import EARLIEST_MS, LATEST_MS
from service.api.body import JsonBody
from service.api.counted_events import count_events
from service.api.fields import (
    MAX_BATCH,
    Id,
    Label,
    Position,
    RequestBody,
    RequestId,
    ResponseBody,
)
from service.api.live_writes import check_times
from service.api.openapi import BODY, refuses
from service.api.services import Worker
from service.api.shown_items import record_shown
from service.clock import now_ms
from service.errors import Overloaded, StoreUnavailable, invalid
from service.store.counters import CountedEvent
from service.store.event_keys import identity
from service.store.shown import ShownItem

router = APIRouter(tags=["store"])
KIND = "impressions"
_MOST_ITEMS = 5_000


class SeenItem(RequestBody):
    """An item that came into view."""

    item_id: Id
    position: Position


class Impression(RequestBody):
    """Items of one ranking that came into view at one time.

    An item that is sent twice (the same request, item and impression_id, or else the same request, item and position)
    counts once.
    """

    request_id: RequestId
    items: Annotated[list[SeenItem], Field(min_length=1, max_length=MAX_BATCH), FailFast()]
    timestamp: Annotated[int, Strict(), Field(ge=EARLIEST_MS, le=LATEST_MS, description="milliseconds since 1970")]
    impression_id: Annotated[str | None, Field(min_length=1, max_length=MAX_ID_CHARACTERS)] = None
    user_id: Annotated[
        Id | None, Field(description="who saw them, for rules of type seen and cap, and for counters")
    ] = None
    scene: Annotated[Label | None, Field(description="where, for counters by scene")] = None


class ImpressionsRequest(RequestBody):
    """A batch of impressions."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "impressions": [
                    {
                        "request_id": "r-1",
                        "items": [{"item_id": "5239", "position": 1}, {"item_id": "6831", "position": 2}],
                        "timestamp": 1650988800000,
                    }
                ]
            }
        }
    )

    impressions: Annotated[list[Impression], Field(min_length=1, max_length=MAX_BATCH), FailFast()]


class ImpressionsResponse(ResponseBody):
    """`accepted` counts items. `new` counts the items that were not known before; null if the store is away."""

    accepted: int
    new: int | None


Row = dict[str, object]


@router.post("/impressions", summary="What came into view", responses=refuses(*BODY, Overloaded, StoreUnavailable))
async def impressions(
    body: Annotated[ImpressionsRequest, Depends(JsonBody(ImpressionsRequest, max_keys=20_000))],
    worker: Worker,
) -> ImpressionsResponse:
    """Logs which items of a ranking came into view.

    Without Redis they are logged anyway, and duplicates are removed later; without a log as well, they are refused.
    """
    with worker.writes.enter():
        check_times("impressions", [impression.timestamp for impression in body.impressions])
        rows = _rows(body.impressions)
        new: int | None = None
        try:
            fresh = await worker.writer.claim_ids(KIND, [each for each, _ in rows])
            new = sum(fresh)
            await record_shown(worker, _shown(body.impressions))
            counted = await worker.targets.counted()
            await count_events(worker, counted, compress(_counted(body.impressions), fresh))
        except StoreUnavailable:
            if worker.log is None:
                raise
            fresh = [True] * len(rows)
        if worker.log is not None:
            for (_, row), is_new in zip(rows, fresh, strict=True):
                if is_new:
                    worker.log.records.offer(KIND, row)
        worker.metrics.impressions.inc(new or 0)
    return ImpressionsResponse(accepted=len(rows), new=new)


def _shown(impressions: Sequence[Impression]) -> Iterator[ShownItem]:
    """The items that came into view, from impressions that name their user."""
    for impression in impressions:
        for item in impression.items if impression.user_id is not None else ():
            yield ShownItem(str(impression.user_id), item.item_id, impression.timestamp, acted=False)


def _counted(impressions: Sequence[Impression]) -> Iterator[CountedEvent]:
    """The items that came into view, as counters see them."""
    for impression in impressions:
        scene = None if impression.scene is None else text_of(impression.scene, "scene")
        for item in impression.items:
            yield CountedEvent(impression.user_id, item.item_id, IMPRESSION, scene, impression.timestamp)


def _rows(impressions: Sequence[Impression]) -> list[tuple[bytes, Row]]:
    """The log's rows, one per item, each with its identity. Raises InvalidRequest for too many items."""
    items = sum(len(impression.items) for impression in impressions)
    if items > _MOST_ITEMS:
        raise invalid("impressions", f"{items} items, {_MOST_ITEMS} are allowed; send smaller batches")
    logged_ms = now_ms()
    rows: list[tuple[bytes, Row]] = []
    for impression in impressions:
        for item in impression.items:
            # An impression id may be unique within its request only.
            where: tuple[object, ...] = ("position", item.position)
            if impression.impression_id is not None:
                where = ("id", impression.impression_id)
            each = identity(*where, impression.request_id, item.item_id)
            row: Row = {
                "impression_id": each.hex(),
                "request_id": impression.request_id,
                "item_id": item.item_id,
                "position": item.position,
                "time_ms": impression.timestamp,
                "logged_ms": logged_ms,
            }
            rows.append((each, row))
    return rows
