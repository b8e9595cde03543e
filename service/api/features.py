"""Owns `PUT /features/users` and `PUT /features/items`: raw values, checked against the schema of the live model."""

from collections.abc import Iterable, Mapping

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from service.api.body import parse, read_body
from service.api.contract import ItemsRequest, UsersRequest
from service.api.operators import require_operator
from service.assemble import pack_raw
from service.errors import FieldError, InvalidRequest
from service.layouts import Entity
from service.live import Follower
from service.metrics import Metrics
from service.settings import Settings
from service.store.writer import Writer


def feature_routes(follower: Follower, writer: Writer, metrics: Metrics, settings: Settings) -> APIRouter:
    router = APIRouter(tags=["store"])

    async def write(entity: Entity, rows: Iterable[tuple[str, Mapping[str, object]]]) -> Response:
        """All rows or, where one value is bad, none."""
        layouts = follower.current().bundle.layouts
        merged: dict[str, dict[str, object]] = {}
        bad: list[FieldError] = []
        for place, (entity_id, values) in enumerate(rows):
            try:
                pack_raw(layouts.layout(entity), values, f"{entity}s[{place}].features")
            except InvalidRequest as error:
                bad.extend(error.errors)
            merged.setdefault(entity_id, {}).update(values)
        if bad:
            raise InvalidRequest(f"{bad[0].field}: {bad[0].message}; nothing was written", errors=bad[:20])
        await writer.merge_rows(layouts, entity, merged)
        metrics.feature_rows.labels(entity).inc(len(merged))
        return JSONResponse({"written": len(merged)})

    @router.put("/features/users", summary="Feature values of users")
    async def users(request: Request) -> Response:
        require_operator(request, settings)
        wanted = parse(UsersRequest, await read_body(request.scope, request.receive, settings.max_body_bytes))
        return await write("user", ((u.user_id, u.features) for u in wanted.users))

    @router.put("/features/items", summary="Feature values of items")
    async def items(request: Request) -> Response:
        require_operator(request, settings)
        wanted = parse(ItemsRequest, await read_body(request.scope, request.receive, settings.max_body_bytes))
        return await write("item", ((i.item_id, i.features) for i in wanted.items))

    return router
