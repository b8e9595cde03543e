"""The floor: what a FastAPI route costs that does nothing."""

from fastapi import FastAPI

app = FastAPI()


@app.post("/rank")
async def rank() -> dict[str, str]:
    return {"status": "ok"}
