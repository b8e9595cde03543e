"""Answers `PUT /features/users` and `PUT /features/items`: raw values, checked against every feature schema in use."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import FailFast, Field

from features import RowLayout
from features.layouts import Entity
from features.nearest import nearest
from service.api.access.operators import Operator
from service.api.body import JsonBody
from service.api.fields import MAX_BATCH, Features, Id, RequestBody, ResponseBody
from service.api.live_writes import all_done
from service.api.openapi import BODY, OPERATOR, WORK, refuses
from service.api.problems import ERRORS_SHOWN
from service.api.services import Services, Worker
from service.errors import FieldError, InvalidRequest, StoreUnavailable
from service.ranking.inputs.assemble import pack_raw

_CHECKED_AT_ONCE = 50  # rows; others run in between
router = APIRouter(tags=["store"], dependencies=[Operator])
_REFUSES = refuses(*BODY, *OPERATOR, *WORK, StoreUnavailable)
Row = tuple[str, Mapping[str, object]]


class UserFeatures(RequestBody):
    """Raw values of one user."""

    user_id: Id
    features: Features


class ItemFeatures(RequestBody):
    """Raw values of one item."""

    item_id: Id
    features: Features


class UsersRequest(RequestBody):
    """Values to merge onto the stored rows. A feature that is not named keeps its value; null makes it missing."""

    users: Annotated[list[UserFeatures], Field(min_length=1, max_length=MAX_BATCH), FailFast()]


class ItemsRequest(RequestBody):
    """Values to merge onto the stored rows. A feature that is not named keeps its value; null makes it missing."""

    items: Annotated[list[ItemFeatures], Field(min_length=1, max_length=MAX_BATCH), FailFast()]


class WriteResponse(ResponseBody):
    """The number of users or items with a changed row."""

    written: int


@router.put("/features/users", summary="Feature values of users", responses=_REFUSES)
async def users(body: Annotated[UsersRequest, Depends(JsonBody(UsersRequest))], worker: Worker) -> WriteResponse:
    """Merges values onto the users' stored rows."""
    return await _write(worker, "user", [(user.user_id, user.features) for user in body.users])


@router.put("/features/items", summary="Feature values of items", responses=_REFUSES)
async def items(body: Annotated[ItemsRequest, Depends(JsonBody(ItemsRequest))], worker: Worker) -> WriteResponse:
    """Merges values onto the items' stored rows."""
    return await _write(worker, "item", [(item.item_id, item.features) for item in body.items])


async def _write(worker: Services, entity: Entity, rows: Sequence[Row]) -> WriteResponse:
    with worker.writes.enter():
        schemas = await worker.targets.layouts()
        values = await by_schema([layouts.layout(entity) for layouts in schemas], entity, rows)
        await all_done(
            worker.writer.merge_rows(layouts, entity, rows_of_schema)
            for layouts, rows_of_schema in zip(schemas, values, strict=True)
            if rows_of_schema
        )
    written = len({entity_id for entity_id, _ in rows})
    worker.metrics.feature_rows.labels(entity).inc(written)
    return WriteResponse(written=written)


async def by_schema(
    layouts: Sequence[RowLayout], entity: Entity, rows: Iterable[Row]
) -> list[dict[str, dict[str, object]]]:
    """For each schema's layout `{id: {feature: value}}` of the features that it has.

    Raises InvalidRequest with the first bad rows.
    """
    by_layout: list[dict[str, dict[str, object]]] = [{} for _ in layouts]
    bad: list[FieldError] = []
    for place, (entity_id, values) in enumerate(rows):
        if place and place % _CHECKED_AT_ONCE == 0:
            await asyncio.sleep(0)
        parts = [_known(layout, values) for layout in layouts]
        bad.extend(_faults(layouts, parts, values, f"{entity}s[{place}].features"))
        if len(bad) >= ERRORS_SHOWN:
            break
        for values_by_id, part in zip(by_layout, parts, strict=True):
            if part or not values:
                values_by_id.setdefault(entity_id, {}).update(part)
    if bad:
        raise InvalidRequest(f"{bad[0].field}: {bad[0].message}; nothing was written", errors=bad[:ERRORS_SHOWN])
    return by_layout


def _known(layout: RowLayout, values: Mapping[str, object]) -> dict[str, object]:
    """Keep the values whose features this layout has."""
    return {name: value for name, value in values.items() if name in layout}


def _faults(
    layouts: Sequence[RowLayout], parts: Sequence[Mapping[str, object]], values: Mapping[str, object], field: str
) -> Sequence[FieldError]:
    """Return the faults of one row: values that a schema refuses; if there are none, features that no schema has."""
    for place, (layout, part) in enumerate(zip(layouts, parts, strict=True)):
        try:
            pack_raw(layout, part, field)
        except InvalidRequest as error:
            where = "; refused by another schema that Redis lists beside the live model's" if place else ""
            return [FieldError(e.field, e.message + where) for e in error.errors]
    known = dict.fromkeys(feature.name for layout in layouts for feature in layout.features)
    unknown = [name for name in values if name not in known][:ERRORS_SHOWN]
    return [FieldError(f"{field}.{name}", f"unknown feature{nearest(name, known)}") for name in unknown]
