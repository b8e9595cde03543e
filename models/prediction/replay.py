"""Asks a running service to score impressions, and compares the scores with those of the run."""

import http.client
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from features.statistics import relative_difference
from models.prediction.rows import ScoredRows

MOST_CANDIDATES = 1000
TIMEOUT_S = 60.0
TOLERANCE = 1e-4  # as for a bundle's golden request


class ReplayError(RuntimeError):
    """A service that does not answer, or refuses a request; the message says which."""


@dataclass
class ReplayResult:
    """`largest` difference by output, relative if a score is beyond 1; number of `degraded` requests by reason.

    `differing` is the number of requests beyond `TOLERANCE`; `first_differing` says which was the first of them.
    """

    requests: int = 0
    impressions: int = 0
    model: str = ""
    largest: dict[str, float] = field(default_factory=dict)
    degraded: Counter[str] = field(default_factory=Counter)
    differing: int = 0
    first_differing: str = ""


def replay(rows: ScoredRows, url: str) -> ReplayResult:
    """POST /rank for every user and time of the impressions, as of that time. Raises ReplayError."""
    address = urlsplit(url)
    if address.scheme != "http" or not address.hostname:
        raise ReplayError(f"--against: '{url}' is no address like http://127.0.0.1:8000")
    result = ReplayResult()
    connection = http.client.HTTPConnection(address.hostname, address.port or 80, timeout=TIMEOUT_S)
    try:
        for picked, candidates in _requests(rows):
            answer = _rank(connection, _request(rows, picked[0], candidates))
            _compare(rows, picked, answer, result)
    finally:
        connection.close()
    return result


def _requests(rows: ScoredRows) -> Iterator[tuple[list[int], list[int]]]:
    """Yield for each request the impressions to compare, and its candidates, as rows.

    The compared impressions have one user, time and context, and every item once. The candidates are the same
    impressions; for a model that compares candidates, they are the whole request of the log. Raises ReplayError if it
    shows an item twice.
    """
    whole = _whole_requests(rows) if rows.compared else {}
    groups: dict[tuple[str, int, str], list[list[int]]] = {}
    for i, (user, item, time) in enumerate(zip(rows.user_id, rows.item_id, rows.time_ms.tolist(), strict=True)):
        lists = groups.setdefault((user, time, json.dumps(rows.context[i], sort_keys=True)), [])
        for chosen in lists:
            if len(chosen) < MOST_CANDIDATES and all(rows.item_id[j] != item for j in chosen):
                chosen.append(i)
                break
        else:
            lists.append([i])
    for lists in groups.values():
        for picked in lists:
            if rows.request_id is None or not rows.compared:
                yield picked, picked
                continue
            # Impressions of one user and time may belong to two requests.
            for request in dict.fromkeys(rows.request_id[i] for i in picked):
                yield [i for i in picked if rows.request_id[i] == request], whole[request]


def _whole_requests(rows: ScoredRows) -> dict[str, list[int]]:
    """The impressions of each request of the log."""
    assert rows.request_id is not None
    whole: dict[str, list[int]] = {}
    for i, request in enumerate(rows.request_id):
        whole.setdefault(request, []).append(i)
    for request, members in whole.items():
        if len({rows.item_id[i] for i in members}) < len(members):
            problem = "shows an item twice; a service ranks an item once, so its comparison within the request differs"
            raise ReplayError(f"request {request} of the log {problem}")
    return whole


def _request(rows: ScoredRows, first: int, candidates: list[int]) -> dict[str, Any]:
    return {
        "user_id": rows.user_id[first],
        "candidates": [_candidate(rows, i) for i in candidates],
        "timestamp": int(rows.time_ms[first]),
        "context": rows.context[first],
    }


def _candidate(rows: ScoredRows, i: int) -> str | dict[str, Any]:
    if not rows.own[i]:
        return rows.item_id[i]
    return {"item_id": rows.item_id[i], "features": rows.own[i]}


def _rank(connection: http.client.HTTPConnection, request: dict[str, Any]) -> dict[str, Any]:
    where = f"user {request['user_id']} at {request['timestamp']}"
    try:
        connection.request("POST", "/rank", json.dumps(request), {"Content-Type": "application/json"})
        response = connection.getresponse()
        body: dict[str, Any] = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ReplayError(f"{where}: no answer: {error}") from error
    if response.status != 200:
        raise ReplayError(f"{where}: the service answers {response.status}: {body.get('detail', body)}")
    return body


def _compare(rows: ScoredRows, picked: list[int], answer: dict[str, Any], result: ReplayResult) -> None:
    """Add one answer to the comparison."""
    result.requests += 1
    result.impressions += len(picked)
    result.model = f"{answer['model']['name']}/{answer['model']['version']}"
    result.degraded.update(reason.partition(":")[0] for reason in answer["degraded"])
    online = {entry["item_id"]: entry["predictions"] for entry in answer["ranking"]}
    differs = False
    for name, scores in rows.scores.items():
        try:
            served = np.array([online[rows.item_id[i]][name] for i in picked], dtype=np.float64)
        except KeyError as error:
            raise ReplayError(f"the service gives no {error} for the output {name}: it serves {result.model}") from None
        largest = float(relative_difference(served, scores[picked]).max())
        result.largest[name] = max(result.largest.get(name, 0.0), largest)
        differs |= largest > TOLERANCE
    if differs:
        result.differing += 1
        result.first_differing = result.first_differing or _where(rows, picked[0])


def _where(rows: ScoredRows, row: int) -> str:
    return f"user {rows.user_id[row]} at {rows.time_ms[row]}"
