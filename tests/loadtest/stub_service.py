"""A tiny service that speaks the ranking contract over real HTTP, with faults to order.

`python stub_service.py PORT FAULT`.

FAULT: none; unsorted, missing, foreign, versionless, not_json (every 20th answer is wrong so); error (every 20th is a
503); degraded; deaf (takes a rollout and ignores it); stall (one second without any answer, once, two seconds after the
first request); keyed (a ranking needs the header of a caller); slow (each request keeps the event loop for 5 ms, so
that fewer than 200 a second fit).
"""

import asyncio
import itertools
import sys
import time
from typing import Any

import uvicorn
from fastapi import FastAPI, Header, Response
from fastapi.responses import JSONResponse

TOKEN = "let-me-in"


def ranking_of(candidates: list[str]) -> list[dict[str, Any]]:
    return [
        {"item_id": item, "rank": place, "score": 1.0 / place, "predictions": {}}
        for place, item in enumerate(candidates, 1)
    ]


def spoil(body: dict[str, Any], fault: str) -> Response:
    if fault == "unsorted":
        body["ranking"][0]["score"] = -1.0
    elif fault == "missing":
        body["ranking"].pop()
    elif fault == "foreign":
        body["ranking"][0]["item_id"] = "not-a-candidate"
    elif fault == "versionless":
        body["model"].pop("version")
    elif fault == "not_json":
        return Response("<html>")
    elif fault == "error":
        return JSONResponse({"code": "overloaded"}, status_code=503)
    return JSONResponse(body)


def build_app(fault: str) -> FastAPI:
    app = FastAPI()
    live = {"name": "stub", "version": "1"}
    numbers = itertools.count(1)
    stall_at = {"time": 0.0, "done": fault != "stall"}

    @app.post("/rank")
    async def rank(request: dict[str, Any], authorization: str = Header("")) -> Response:
        if fault == "keyed" and authorization != f"Bearer {TOKEN}":
            return JSONResponse({"code": "unauthorized"}, status_code=401)
        number = next(numbers)
        stall_at["time"] = stall_at["time"] or time.monotonic() + 2.0
        if not stall_at["done"] and time.monotonic() > stall_at["time"]:
            stall_at["done"] = True
            time.sleep(1.0)
        if fault == "slow":
            time.sleep(0.005)
        await asyncio.sleep(0)
        degraded = ["store_unavailable"] if fault == "degraded" else ["unknown_items:1"]
        body = {"model": dict(live), "degraded": degraded, "ranking": ranking_of(request["candidates"])}
        return spoil(body, fault) if number % 20 == 0 else JSONResponse(body)

    @app.put("/models/rollout")
    async def rollout(document: dict[str, Any], authorization: str = Header("")) -> Response:
        if authorization != f"Bearer {TOKEN}":
            return JSONResponse({"code": "unauthorized"}, status_code=401)
        if fault != "deaf":
            live.update(document["stable"])
        return JSONResponse(document)

    return app


if __name__ == "__main__":
    uvicorn.run(build_app(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
