"""The service with a profiler in its worker, which HTTP requests switch on and off."""

import cProfile
import pstats
import time
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

START = "/bench/profile/start"
STOP = "/bench/profile/stop"


@dataclass(frozen=True)
class Called:
    """A function: calls per request, and microseconds per request, excluding and including the functions that it
    called.
    """

    name: str
    calls: float
    own_us: float
    all_us: float


class Profiled:
    """Wraps an application and profiles all that its event loop runs between START and STOP."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.profile = cProfile.Profile(
            time.thread_time
        )  # CPU time, so that a write that wakes another process is not charged with its work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in (START, STOP):
            await self.app(scope, receive, send)
            return
        body = b"{}"
        if scope["path"] == START:
            self.profile.enable()
        else:
            self.profile.disable()
            body = orjson.dumps(_rows(self.profile))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _rows(profile: cProfile.Profile) -> list[list[Any]]:
    stats: dict[tuple[str, int, str], Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    return [[_name(where), calls, own, cumulative] for where, (_, calls, own, cumulative, _callers) in stats.items()]


def _name(where: tuple[str, int, str]) -> str:
    file, line, function = where
    return function if file == "~" else f"{'/'.join(file.split('/')[-2:])}:{line} {function}"


def called(rows: list[list[Any]], requests: int) -> list[Called]:
    """The functions of a profile, most expensive first."""
    functions = [
        Called(name, calls / requests, own / requests * 1e6, cumulative / requests * 1e6)
        for name, calls, own, cumulative in rows
    ]
    return sorted(functions, key=lambda c: -c.own_us)


def per_candidate(functions: list[Called], candidates: int) -> list[Called]:
    """Functions that were called about once per candidate. There should be none."""
    return [c for c in functions if c.calls >= candidates / 2]


def create_app() -> ASGIApp:
    from service.server.app import from_environment

    return Profiled(from_environment())
