"""The lower bound: a FastAPI route that does nothing."""

from fastapi import FastAPI

app = FastAPI()


@app.post("/rank")
async def rank() -> dict[str, str]:
    return {"status": "ok"}
