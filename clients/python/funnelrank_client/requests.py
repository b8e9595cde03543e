"""Bodies of the calls: what a ranking, a candidate and an event hold, and their JSON."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

Value = str | int | float | bool | None | Sequence[Any]


@dataclass(frozen=True)
class Candidate:
    """An item to rank, with values that hold for this request alone.

    `features` replace stored item features. `source` names the retrieval that brought the item.
    """

    item_id: str
    features: Mapping[str, Value] | None = None
    source: str | None = None

    def as_json(self) -> dict[str, Any]:
        return _without_none({"item_id": self.item_id, "features": self.features, "source": self.source})


@dataclass(frozen=True)
class Event:
    """A behaviour of a user. `timestamp` is in milliseconds since 1970.

    `event_id` makes the call repeatable: the service takes an event with a known id once. `request_id` and `position`
    name the ranking that showed the item, and where. `value` says how much: seconds watched, a price.
    """

    user_id: str
    item_id: str
    action: str | int
    timestamp: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    scene: str | int | None = None
    event_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    request_id: str | None = None
    position: int | None = None
    value: float | None = None

    def as_json(self) -> dict[str, Any]:
        return _without_none(
            {
                "user_id": self.user_id,
                "item_id": self.item_id,
                "action": self.action,
                "timestamp": self.timestamp,
                "scene": self.scene,
                "event_id": self.event_id,
                "request_id": self.request_id,
                "position": self.position,
                "value": self.value,
            }
        )


@dataclass(frozen=True)
class Impression:
    """Items of one ranking that came into view at `timestamp`, in milliseconds since 1970.

    `positions` maps an item id to its position in the list, from 1. `impression_id` makes the call repeatable. With
    `user_id`, rules on seen items and counters by user count it; with `scene`, counters by scene do.
    """

    request_id: str
    positions: Mapping[str, int]
    timestamp: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    impression_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    user_id: str | None = None
    scene: str | None = None

    def as_json(self) -> dict[str, Any]:
        return _without_none(
            {
                "request_id": self.request_id,
                "items": [{"item_id": item_id, "position": place} for item_id, place in self.positions.items()],
                "timestamp": self.timestamp,
                "impression_id": self.impression_id,
                "user_id": self.user_id,
                "scene": self.scene,
            }
        )


class RankOptions(TypedDict, total=False):
    """Further fields of a ranking; the service's documentation says what each means."""

    scene: str | None
    context: Mapping[str, Value] | None
    top_k: int | None
    fusion: Mapping[str, Any] | None
    timestamp: int | None
    explain: bool | None
    page: str | None
    user_features: Mapping[str, Value] | None
    behaviours: Sequence[Mapping[str, Value]] | None


def rank_body(
    user_id: str, candidates: Sequence[str | Candidate], timeout_ms: int | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The body of `POST /rank`. `options` are further fields of the request; those that are None are left out."""
    listed = [c if isinstance(c, str) else c.as_json() for c in candidates]
    body: dict[str, Any] = {"user_id": user_id, "candidates": listed, "timeout_ms": timeout_ms}
    return _without_none(body | dict(options))


def to_json(body: Any) -> bytes:
    """Raises ValueError for NaN and infinity, which JSON does not have; arrays and numbers of numpy become lists and
    numbers.
    """
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    return text.encode()


def _plain(value: Any) -> Any:
    """What a value of numpy is in Python: a vector usually comes from there. Raises TypeError for other types."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
