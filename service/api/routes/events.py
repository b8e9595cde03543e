"""Answers `POST /events`: behaviours of users, written under every feature schema in use."""

from collections.abc import Sequence
from itertools import compress
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends
from pydantic import ConfigDict, FailFast, Field, Strict

from features.keys import MAX_ID_CHARACTERS, text_of
from features.layouts import Layouts, rows_of
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
from service.api.live_writes import all_done, check_times
from service.api.openapi import BODY, WORK, refuses
from service.api.services import Worker
from service.api.shown_items import record_shown
from service.clock import now_ms
from service.errors import Conflict, StoreUnavailable
from service.exposures.log import RecordLog
from service.store.base import FeatureStore, FeatureWriter, StoreDown
from service.store.counters import CountedEvent
from service.store.event_keys import event_keys, identity
from service.store.shown import ShownItem

router = APIRouter(tags=["store"])
KIND = "events"


class Event(RequestBody):
    """One behaviour of a user.

    An event that is sent twice (same user, time and event_id, or same user, time, item, action and scene) counts once.
    """

    user_id: Id
    item_id: Id
    action: Annotated[Label, Field(description="what the user did")]
    scene: Annotated[Label | None, Field(description="where")] = None
    timestamp: Annotated[int, Strict(), Field(ge=EARLIEST_MS, le=LATEST_MS, description="milliseconds since 1970")]
    event_id: Annotated[str | None, Field(min_length=1, max_length=MAX_ID_CHARACTERS)] = None
    request_id: Annotated[RequestId | None, Field(description="of the ranking that showed the item")] = None
    position: Position | None = None
    value: Annotated[
        float | None, Field(ge=0, le=1e12, description="how much: seconds watched, a price; a label of the log's join")
    ] = None


class EventsRequest(RequestBody):
    """A batch of behaviours."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "events": [{"user_id": "712", "item_id": "5239", "action": "click", "timestamp": 1650988800000}]
            }
        }
    )

    events: Annotated[list[Event], Field(min_length=1, max_length=MAX_BATCH), FailFast()]


class EventsResponse(ResponseBody):
    """`new` counts the events that were not known already."""

    accepted: int
    new: int


@router.post(
    "/events",
    summary="Behaviours of users",
    responses=refuses(*BODY, *WORK, StoreUnavailable, Conflict),
)
async def events(
    body: Annotated[EventsRequest, Depends(JsonBody(EventsRequest, max_keys=20_000))],
    worker: Worker,
) -> EventsResponse:
    """Writes behaviours; the next ranking of their users sees them."""
    with worker.writes.enter():
        every = await worker.targets.layouts()
        schemas = [layouts for layouts in every if layouts.behaviour is not None]
        counted = [layouts for layouts in every if layouts.counters]
        if not schemas and not counted and worker.log is None and not worker.follower.snapshot.exposure_days:
            raise Conflict("no model in use reads behaviours or counts events, and no rule reads the actions of users")
        check_times("events", [event.timestamp for event in body.events])
        acted = await record_shown(worker, (ShownItem(e.user_id, e.item_id, e.timestamp, True) for e in body.events))
        new = await all_done(_add(layouts, worker.reader, worker.writer, body.events) for layouts in schemas)
        # An event that the sequences have is logged only once, even if it is sent to several workers.
        if worker.log is not None or counted:
            fresh = await worker.writer.claim_ids(KIND, [_identity(event) for event in body.events])
            new.append(sum(fresh))
            first_seen = list(compress(body.events, fresh))
            if worker.log is not None:
                _log(worker.log.records, first_seen)
            await count_events(worker, counted, map(_counted, first_seen))
        new.append(acted)
        worker.metrics.events.inc(new[0])
    return EventsResponse(accepted=len(body.events), new=new[0])


def _log(records: RecordLog, events: Sequence[Event]) -> None:
    """Log events that were not logged before."""
    logged_ms = now_ms()
    for event in events:
        row = {
            "event_id": _identity(event).hex(),
            "request_id": event.request_id,
            "user_id": event.user_id,
            "item_id": event.item_id,
            "action": text_of(event.action, "action"),
            "scene": None if event.scene is None else text_of(event.scene, "scene"),
            "position": event.position,
            "value": event.value,
            "time_ms": event.timestamp,
            "logged_ms": logged_ms,
        }
        records.offer(KIND, row)


def _counted(event: Event) -> CountedEvent:
    scene = None if event.scene is None else text_of(event.scene, "scene")
    return CountedEvent(event.user_id, event.item_id, text_of(event.action, "action"), scene, event.timestamp)


def _identity(event: Event) -> bytes:
    if event.event_id is not None:
        # Many callers count their events per user, so that an event id alone is not unique.
        return identity("id", event.user_id, event.timestamp, event.event_id)
    return identity("event", event.user_id, event.item_id, event.action, event.scene, event.timestamp)


async def _add(layouts: Layouts, reader: FeatureStore, writer: FeatureWriter, events: Sequence[Event]) -> int:
    """Add events to the sequences of one schema; return how many were new."""
    return await writer.add_behaviours(layouts, await packed(layouts, reader, events))


async def packed(layouts: Layouts, reader: FeatureStore, events: Sequence[Event]) -> dict[str, list[tuple[int, bytes]]]:
    """Pack events as members of the users' sorted sets. Each carries the present features of its item in this schema.

    Raises StoreUnavailable.
    """
    assert layouts.behaviour is not None
    # Read every item once.
    distinct = list(dict.fromkeys(e.item_id for e in events))
    try:
        rows = await reader.item_rows(layouts, distinct)
    except StoreDown as error:
        raise StoreUnavailable(str(error)) from None
    place = {item_id: i for i, item_id in enumerate(distinct)}
    item_rows = rows_of(layouts.item, b"".join(rows), len(rows))[[place[e.item_id] for e in events]]
    # Pack all behaviours at once.
    behaviours = layouts.behaviour.of_items(
        item_rows,
        np.array([e.action for e in events], dtype=object),
        np.array([e.scene for e in events], dtype=object),
        np.array([e.timestamp for e in events], dtype=np.int64),
    )
    # Group the behaviours by user.
    by_user: dict[str, list[tuple[int, bytes]]] = {}
    keys = event_keys(
        [e.item_id for e in events], [e.action for e in events], [e.scene for e in events], [e.event_id for e in events]
    )
    for event, key, row in zip(events, keys, behaviours, strict=True):
        by_user.setdefault(event.user_id, []).append((event.timestamp, key + row.tobytes()))
    return by_user
