"""Owns `POST /events`: behaviours of users, seen by their next ranking on any worker, under every feature schema in use."""

from collections.abc import Sequence
from time import time

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from features.layouts import Layouts, rows_of
from features.times import LATEST_AHEAD_MS
from service.api.body import parse, read_body
from service.api.live_writes import Written, all_done
from service.api.requests import Event, EventsRequest
from service.errors import Conflict, FieldError, InvalidRequest, StoreUnavailable
from service.metrics.metrics import Metrics
from service.ranking.admission import Admission
from service.rollout.follower import Follower
from service.settings import Settings
from service.store.base import FeatureStore, FeatureWriter, StoreDown
from service.store.event_keys import event_keys


def event_routes(
    follower: Follower,
    reader: FeatureStore,
    writer: FeatureWriter,
    metrics: Metrics,
    settings: Settings,
    writes: Admission,
) -> APIRouter:
    router = APIRouter(tags=["store"])
    written = Written(follower, reader)

    @router.post("/events", summary="Behaviours of users")
    async def events(request: Request) -> Response:
        body = await read_body(request.scope, request.receive, settings.max_body_bytes)
        with writes.enter():
            return JSONResponse(await _write(parse(EventsRequest, body)))

    async def _write(wanted: EventsRequest) -> dict[str, int]:
        schemas = [layouts for layouts in await written.layouts() if layouts.behaviour is not None]
        if not schemas:
            raise Conflict("no model in use reads a behaviour sequence")
        _check_times(wanted.events)
        new = await all_done(_add(layouts, reader, writer, wanted.events) for layouts in schemas)
        metrics.events.inc(new[0])
        return {"accepted": len(wanted.events), "new": new[0]}

    return router


def _check_times(events: Sequence[Event]) -> None:
    latest = int(time() * 1000) + LATEST_AHEAD_MS
    message = "lies more than a day ahead; milliseconds since 1970 are expected"
    bad = [FieldError(f"events[{i}].timestamp", message) for i, e in enumerate(events) if e.timestamp > latest]
    if bad:
        raise InvalidRequest(f"{bad[0].field}: {bad[0].message}", errors=bad)


async def _add(layouts: Layouts, reader: FeatureStore, writer: FeatureWriter, events: Sequence[Event]) -> int:
    """How many of the events this schema's sequences did not have yet."""
    return await writer.add_behaviours(layouts, await packed(layouts, reader, events))


async def packed(layouts: Layouts, reader: FeatureStore, events: Sequence[Event]) -> dict[str, list[tuple[int, bytes]]]:
    """Events as members of the users' sorted sets; each carries its item's features as this schema has them now. Raises StoreUnavailable."""
    assert layouts.behaviour is not None
    distinct = list(dict.fromkeys(e.item_id for e in events))
    try:
        rows = await reader.item_rows(layouts, distinct)
    except StoreDown as error:
        raise StoreUnavailable(str(error)) from None
    place = {item_id: i for i, item_id in enumerate(distinct)}
    item_rows = rows_of(layouts.item, b"".join(rows), len(rows))[[place[e.item_id] for e in events]]
    behaviours = layouts.behaviour.of_items(
        item_rows,
        np.array([e.action for e in events], dtype=object),
        np.array([e.scene for e in events], dtype=object),
        np.array([e.timestamp for e in events], dtype=np.int64),
    )
    by_user: dict[str, list[tuple[int, bytes]]] = {}
    keys = event_keys(
        [e.item_id for e in events], [e.action for e in events], [e.scene for e in events], [e.event_id for e in events]
    )
    for event, key, row in zip(events, keys, behaviours, strict=True):
        by_user.setdefault(event.user_id, []).append((event.timestamp, key + row.tobytes()))
    return by_user
