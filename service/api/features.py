"""Owns `PUT /features/users` and `PUT /features/items`: raw values, checked against every feature schema in use."""

from collections.abc import Iterable, Mapping, Sequence

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from features import RowLayout
from features.layouts import Entity
from service.api.body import parse, read_body
from service.api.live_writes import Written, all_done
from service.api.operators import require_operator
from service.api.requests import ItemsRequest, UsersRequest
from service.errors import FieldError, InvalidRequest
from service.metrics.metrics import Metrics
from service.ranking.admission import Admission
from service.ranking.assemble import pack_raw
from service.rollout.follower import Follower
from service.settings import Settings
from service.store.base import FeatureStore, FeatureWriter


def feature_routes(
    follower: Follower,
    reader: FeatureStore,
    writer: FeatureWriter,
    metrics: Metrics,
    settings: Settings,
    writes: Admission,
) -> APIRouter:
    router = APIRouter(tags=["store"])
    written = Written(follower, reader)

    async def write(entity: Entity, rows: Iterable[tuple[str, Mapping[str, object]]]) -> Response:
        schemas = await written.layouts()
        ids, values = by_schema([layouts.layout(entity) for layouts in schemas], entity, rows)
        await all_done(
            writer.merge_rows(layouts, entity, own) for layouts, own in zip(schemas, values, strict=True) if own
        )
        metrics.feature_rows.labels(entity).inc(len(ids))
        return JSONResponse({"written": len(ids)})

    @router.put("/features/users", summary="Feature values of users")
    async def users(request: Request) -> Response:
        require_operator(request, settings)
        body = await read_body(request.scope, request.receive, settings.max_body_bytes)
        with writes.enter():
            wanted = parse(UsersRequest, body)
            return await write("user", ((u.user_id, u.features) for u in wanted.users))

    @router.put("/features/items", summary="Feature values of items")
    async def items(request: Request) -> Response:
        require_operator(request, settings)
        body = await read_body(request.scope, request.receive, settings.max_body_bytes)
        with writes.enter():
            wanted = parse(ItemsRequest, body)
            return await write("item", ((i.item_id, i.features) for i in wanted.items))

    return router


def by_schema(
    layouts: Sequence[RowLayout], entity: Entity, rows: Iterable[tuple[str, Mapping[str, object]]]
) -> tuple[set[str], list[dict[str, dict[str, object]]]]:
    """All ids, and for each schema's layout `{id: {feature: value}}` of the features that it has. Raises InvalidRequest with every bad row."""
    own: list[dict[str, dict[str, object]]] = [{} for _ in layouts]
    ids: set[str] = set()
    bad: list[FieldError] = []
    for place, (entity_id, values) in enumerate(rows):
        ids.add(entity_id)
        parts = [{name: value for name, value in values.items() if name in layout} for layout in layouts]
        bad.extend(_wrong(layouts, parts, values, f"{entity}s[{place}].features"))
        for merged, part in zip(own, parts, strict=True):
            if part or not values:
                merged.setdefault(entity_id, {}).update(part)
    if bad:
        raise InvalidRequest(f"{bad[0].field}: {bad[0].message}; nothing was written", errors=bad[:20])
    return ids, own


def _wrong(
    layouts: Sequence[RowLayout], parts: Sequence[Mapping[str, object]], values: Mapping[str, object], field: str
) -> Sequence[FieldError]:
    """What is wrong with one row: a value that a schema does not take, or else the features that no schema has."""
    for place, (layout, part) in enumerate(zip(layouts, parts, strict=True)):
        try:
            pack_raw(layout, part, field)
        except InvalidRequest as error:
            where = "; so says another schema that Redis lists beside the live model's" if place else ""
            return [FieldError(e.field, e.message + where) for e in error.errors]
    unknown = [name for name in values if not any(name in part for part in parts)]
    if not unknown:
        return ()
    known = ", ".join(dict.fromkeys(f.name for layout in layouts for f in layout.features)) or "none"
    return [FieldError(f"{field}.{name}", f"unknown feature; known: {known}") for name in unknown]
