"""The answer of `POST /rank` as typed values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from funnelrank_client.calls import Reply
from funnelrank_client.errors import NoAnswer


class Degradation(str):
    """A reason for which the ranking is not all that it could be, e.g. `unknown_items:3`.

    It is the text of the answer; `reason` and `affected` (how many items or fields) are its parts. Reasons that this
    client does not know are kept.
    """

    @property
    def reason(self) -> str:
        return self.partition(":")[0]

    @property
    def affected(self) -> int | None:
        count = self.partition(":")[2]
        return int(count) if count.isdigit() else None


@dataclass(frozen=True)
class ModelUsed:
    """The model version that scored. `role` is `stable` or `canary`; `line` is None if the service has only one."""

    name: str
    version: str
    role: str
    line: str | None = None


@dataclass(frozen=True)
class Coverage:
    """How many candidates were sent, and how many were scored."""

    requested: int
    scored: int


class RankedItem:
    """One item of a ranking.

    `score` is None if nothing could be scored, and for items of a fallback order. `predictions` are the task scores,
    e.g. `pctr`. `explain` is there if the request asked for it. `raw` is the item as the service sent it.
    """

    __slots__ = ("raw",)

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw

    @property
    def item_id(self) -> str:
        item_id: str = self.raw["item_id"]
        return item_id

    @property
    def rank(self) -> int:
        rank: int = self.raw["rank"]
        return rank

    @property
    def score(self) -> float | None:
        score: float | None = self.raw["score"]
        return score

    @property
    def predictions(self) -> Mapping[str, float | None]:
        predictions: Mapping[str, float | None] = self.raw["predictions"]
        return predictions

    @property
    def explain(self) -> Mapping[str, Any] | None:
        return self.raw.get("explain")

    @property
    def moved_by(self) -> Any:
        """The rules that moved the item, where the request asked for an explanation."""
        return self.raw.get("moved_by")

    def __repr__(self) -> str:
        return f"RankedItem(item_id={self.item_id!r}, rank={self.rank}, score={self.score})"


@dataclass(frozen=True)
class Ranking:
    """A ranking, best item first.

    `fallback` is true if the service gave none and the items stand in the caller's own order; `model` is None then.
    `raw` is the answer as the service sent it, so that fields of a newer service can be read.
    """

    request_id: str
    items: Sequence[RankedItem]
    model: ModelUsed | None
    degraded: tuple[Degradation, ...]
    coverage: Coverage
    raw: Mapping[str, Any]
    fallback: bool = False

    @property
    def item_ids(self) -> list[str]:
        return [item.item_id for item in self.items]

    @property
    def fusion(self) -> Mapping[str, Any]:
        """The fusion profile and its revision; further parts are those of the service."""
        fusion: Mapping[str, Any] = self.raw.get("fusion", {})
        return fusion

    @property
    def rules(self) -> Mapping[str, Any] | None:
        return self.raw.get("rules")

    @property
    def page(self) -> str | None:
        """The token that continues this list; None if there is no next page."""
        return self.raw.get("page")


def _model_of(raw: Mapping[str, Any]) -> ModelUsed:
    return ModelUsed(raw["name"], raw["version"], raw["role"], raw.get("line"))


def ranking_of(reply: Reply) -> Ranking:
    """The ranking in `reply`. Raises the errors of `Reply.json`, and NoAnswer if it is no ranking."""
    raw = reply.json()
    try:
        return Ranking(
            request_id=raw["request_id"],
            items=[RankedItem(item) for item in raw["ranking"]],
            model=_model_of(raw["model"]),
            degraded=tuple(Degradation(text) for text in raw["degraded"]),
            coverage=Coverage(raw["coverage"]["requested"], raw["coverage"]["scored"]),
            raw=raw,
        )
    except (KeyError, TypeError) as error:
        raise NoAnswer(f"the answer is not a ranking: {error!r}") from error


def fallback_ranking(item_ids: Sequence[str], request_id: str, reason: str) -> Ranking:
    """The given order as a ranking without scores."""
    listed = list(enumerate(item_ids, start=1))
    return Ranking(
        request_id=request_id,
        items=[RankedItem({"item_id": id_, "rank": rank, "score": None, "predictions": {}}) for rank, id_ in listed],
        model=None,
        degraded=(Degradation(reason),),
        coverage=Coverage(len(listed), 0),
        raw={},
        fallback=True,
    )
