"""Tests that the memory of a request is free when it is answered, without the garbage collector."""

import re
import signal
from pathlib import Path
from typing import Any

import pytest
from running_service import UNKNOWN_CONTEXT, Server, serving, wait_until

from service.sample.embedded_redis import EmbeddedRedis

REQUESTS = 60
# The service collects nothing by itself, and on SIGUSR1 says how many objects only the collector can free.
COLLECT_ON_SIGNAL = """
import gc, signal, sys
from service.server import lifespan
lifespan._COLLECT_AFTER = (10**9, 10, 10)
signal.signal(signal.SIGUSR1, lambda *_: print("garbage:", gc.collect(), file=sys.stderr, flush=True))
"""
RANK = {"user_id": "1", "candidates": ["1", "2"], "context": UNKNOWN_CONTEXT}
REQUESTS_OF = {
    "rankings": ("/rank", RANK),
    "refused rankings": ("/rank", RANK | {"candidates": []}),
    "rankings that are not JSON": ("/rank", "text"),
    "unknown paths": ("/no-such-path", RANK),
}


def garbage(server: Server) -> int:
    """Collect, and return how many objects of the service only the collector could free."""
    before = len(re.findall("garbage:", server.log_lines))
    server.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: len(re.findall("garbage:", server.log_lines)) > before)
    return int(re.findall(r"garbage: (\d+)", server.log_lines)[-1])


@pytest.mark.parametrize("kind", REQUESTS_OF)
def test_answered_requests_leave_nothing_to_the_garbage_collector(
    tmp_path: Path, registry: Path, redis_server: EmbeddedRedis, kind: str
) -> None:
    path, body = REQUESTS_OF[kind]

    def ask(server: Any) -> None:
        for _ in range(REQUESTS):
            server.http.post(path, json=body)

    with serving(tmp_path, registry, redis_server.url, setup=COLLECT_ON_SIGNAL) as server:
        ask(server)
        garbage(server)
        ask(server)
        # Work in the background leaves a few objects.
        assert garbage(server) < REQUESTS
