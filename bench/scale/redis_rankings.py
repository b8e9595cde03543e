"""Sends rankings to services without a pause, and compares each answer with what was answered before anything moved."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.scale.redis_tables import NOW_MS, SEED, item_id, user_id

REQUESTS = 200
CANDIDATES = 100
_PAUSE_S = 0.005
_SHOWN_WRONG = 5
_CONTEXT = {"tab": 1, "hour": 12}  # of the sample's models


@dataclass
class Rankings:
    """What one service answered: whole rankings, those that say that rows are missing, failed and wrong ones."""

    whole: int = 0
    incomplete: int = 0
    failed: int = 0
    slowest_ms: float = 0.0
    wrong: list[str] = field(default_factory=list)


def requests(users: int, items: int) -> list[bytes]:
    """Draw requests of random users, each with candidates of its own."""
    rng = np.random.default_rng(SEED)
    bodies = []
    for user in rng.integers(users, size=REQUESTS).tolist():
        candidates = [item_id(n) for n in rng.choice(items, CANDIDATES, replace=False).tolist()]
        body = {"user_id": user_id(user), "candidates": candidates, "timestamp": NOW_MS, "context": _CONTEXT}
        bodies.append(json.dumps(body).encode())
    return bodies


def ask_all(port: int, asked: Sequence[bytes]) -> list[dict[str, float]]:
    """Return the scores of each request. Raises RuntimeError unless every ranking is whole."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    scores = []
    for body in asked:
        status, answer = _answer(connection, body)
        if status != 200 or answer["degraded"]:
            raise RuntimeError(f"a calm cluster is ranked with {status}: {answer.get('degraded', answer)}")
        scores.append(_scores(answer))
    connection.close()
    return scores


@contextmanager
def checked(
    ports: Mapping[str, int], asked: Sequence[bytes], expected: Sequence[dict[str, float]]
) -> Iterator[Callable[[], dict[str, Rankings]]]:
    """Rank with each service in a thread meanwhile. A call of the value ends a phase and returns its rankings."""
    current = {name: Rankings() for name in ports}
    ended = threading.Event()

    def phase() -> dict[str, Rankings]:
        taken = dict(current)
        for name in ports:
            current[name] = Rankings()
        return taken

    def rank_on(name: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", ports[name], timeout=30)
        number = 0
        while not ended.wait(_PAUSE_S):
            place = number % len(asked)
            number += 1
            started = time.perf_counter()
            try:
                status, answer = _answer(connection, asked[place])
            except (OSError, http.client.HTTPException):
                connection.close()
                current[name].failed += 1
                continue
            rankings = current[name]
            rankings.slowest_ms = max(rankings.slowest_ms, 1000 * (time.perf_counter() - started))
            _count(rankings, status, answer, expected[place])
        connection.close()

    threads = [threading.Thread(target=rank_on, args=(name,)) for name in ports]
    for thread in threads:
        thread.start()
    try:
        yield phase
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _count(rankings: Rankings, status: int, answer: dict[str, Any], expected: dict[str, float]) -> None:
    if status != 200:
        rankings.failed += 1
        return
    problem = wrong(answer, expected)
    if problem:
        rankings.wrong.append(problem)
        if len(rankings.wrong) <= _SHOWN_WRONG:
            print(f"wrong ranking: {problem}")
    elif answer["degraded"]:
        rankings.incomplete += 1
    else:
        rankings.whole += 1


def wrong(answer: dict[str, Any], expected: dict[str, float]) -> str:
    """Return what is wrong with a ranking; empty if nothing is.

    A ranking that says that `N` rows were not read may differ in `N` items, and in all of them without its user.
    """
    scores = _scores(answer)
    differ = [i for i, score in expected.items() if scores.get(i) != score]
    degraded = answer["degraded"]
    unread = sum(int(text.partition(":")[2] or len(expected)) for text in degraded if text.startswith("store_unav"))
    if not differ or (unread and "unknown_user" in degraded) or len(differ) <= unread:
        return ""
    return f"{len(differ)} of {len(expected)} scores differ, and {degraded} is said"


def _answer(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, dict[str, Any]]:
    connection.request("POST", "/rank", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def _scores(answer: dict[str, Any]) -> dict[str, float]:
    return {item["item_id"]: item["score"] for item in answer["ranking"]}
