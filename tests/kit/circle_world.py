"""A small simulated catalogue whose users choose by a known truth, and the days that a service ranks for them."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd

USERS = 120
ITEMS = 60
GROUPS = 4
TOPICS = 6
CANDIDATES = 20
BEST = 10  # the cutoff of nDCG
_MOVED = 0.3  # the share of tastes and items that change before the second day
_BATCH = 40  # rankings whose impressions and events are sent together
_DAY_MS = 86_400_000
_BEFORE_MS = 1_700_006_400_000  # the day before the service begins

RECIPE: dict[str, Any] = {
    "name": "circle",
    "description": "a simulated catalogue",
    "data": {"dir": "", "behaviours": None, "request_id": "request_id", "split": {}},
    "features": {
        "item_id_feature": "item_id",
        "user": [{"name": "taste", "type": "categorical"}],
        "item": [{"name": "item_id", "type": "categorical"}, {"name": "topic", "type": "categorical"}],
    },
    "tasks": [{"type": "independent", "name": "pctr", "label": "click"}],
    "model": {"architecture": "shared_bottom", "embedding": {"dim": 8, "min_count": 1}, "tower_hidden": [32]},
    "training": {"epochs": 6, "batch_size": 128, "learning_rate": 0.01, "patience": 6},
    "log": {
        "seen": {"by": "explicit"},
        "labels": {"click": {"actions": ["click"], "window_s": 1.0}},
        "lateness_s": 0.5,
    },
}


@dataclass
class World:
    """Users of four tastes and items of six topics. `truth[day]` is the probability `[USERS, ITEMS]` that a user who
    sees an item clicks it.
    """

    seed: int
    drifts: bool = True
    shown: int = CANDIDATES  # of a ranking; of items that are never shown, nothing is learned
    taste: np.ndarray = field(init=False)
    topic: np.ndarray = field(init=False)
    truth: list[np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.taste = rng.integers(0, GROUPS, USERS)
        self.topic = rng.integers(0, TOPICS, ITEMS)
        before = self._drawn(rng)
        after = self._drawn(rng)
        # A part of the tastes and of the items' appeal moves before the second day; the rates stay alike.
        moved = rng.random((GROUPS, TOPICS)) < _MOVED
        items = rng.random(ITEMS) < _MOVED
        later = (np.where(moved, after[0], before[0]), np.where(items, after[1], before[1]))
        first = self._probabilities(*before)
        self.truth = [first, self._probabilities(*later) if self.drifts else first]

    @staticmethod
    def _drawn(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(0, 1.2, (GROUPS, TOPICS)), rng.normal(0, 0.6, ITEMS)

    def _probabilities(self, affinity: np.ndarray, appeal: np.ndarray) -> np.ndarray:
        logits = -1.0 + affinity[self.taste][:, self.topic] + appeal
        return np.asarray(1 / (1 + np.exp(-logits)))

    def requests(self, count: int) -> list[tuple[int, np.ndarray]]:
        """The requests of a day: users with candidates. They are the same on every day."""
        rng = np.random.default_rng([self.seed, 1])
        return [(int(rng.integers(USERS)), rng.permutation(ITEMS)[:CANDIDATES]) for _ in range(count)]

    def viewed(self, rng: np.random.Generator) -> np.ndarray:
        """The positions that a user looks at: the first always, later ones less and less."""
        return np.flatnonzero(rng.random(self.shown) < 1 / (1 + np.arange(self.shown)) ** 0.3)

    def tables_before(self, folder: Path, count: int) -> Path:
        """Write the tables of a day of random rankings, as many as the service's day has."""
        rng = np.random.default_rng([self.seed, 2])
        rows: list[tuple[int, int, int, str, int]] = []
        for place, (user, candidates) in enumerate(self.requests(count)):
            shown = rng.permutation(candidates)[: self.shown][self.viewed(rng)]
            clicked = rng.random(len(shown)) < self.truth[0][user, shown]
            at = _BEFORE_MS + place * _DAY_MS // count
            rows += [(user, int(item), at, f"b-{place}", int(c)) for item, c in zip(shown, clicked, strict=True)]
        folder.mkdir(parents=True)
        columns = ["user_id", "item_id", "time_ms", "request_id", "click"]
        pd.DataFrame(rows, columns=columns).to_parquet(folder / "impressions.parquet", index=False)
        pd.DataFrame({"user_id": range(USERS), "taste": self.taste}).to_parquet(folder / "users.parquet", index=False)
        pd.DataFrame({"item_id": range(ITEMS), "topic": self.topic}).to_parquet(folder / "items.parquet", index=False)
        return folder

    def split_before(self) -> dict[str, Any]:
        """The parts of that day, in the shares in which a nightly run splits the next."""
        ends = [_BEFORE_MS + round(_DAY_MS * share) for share in (0, 0.72, 0.8, 1)]
        named = [pd.Timestamp(end, unit="ms", tz="UTC").isoformat() for end in ends]
        parts = {name: [named[at], named[at + 1]] for at, name in enumerate(("train", "validation", "test"))}
        return {"by": "time", **parts}

    def drive(self, http: httpx.Client, count: int, tag: str) -> "Day":
        """Rank a day's requests, have users look and click by the second truth, and report both to the service."""
        rng = np.random.default_rng([self.seed, 3])
        truth = self.truth[1]
        day = Day()
        impressions: list[dict[str, Any]] = []
        events: list[dict[str, Any]] = []
        for place, (user, candidates) in enumerate(self.requests(count)):
            request = f"{tag}-{self.seed}-{place}"
            ids = [str(item) for item in candidates]
            body = {"user_id": str(user), "candidates": ids, "top_k": self.shown, "request_id": request}
            answer = _posted(http, "/rank", body)
            ranked = np.array([int(entry["item_id"]) for entry in answer["ranking"]])
            day.add(answer["model"], _quality(truth[user], ranked, candidates))
            # The user looks at some items and clicks some of these.
            at = int(time.time() * 1000)
            day.times.append(at / 1000)
            seen = self.viewed(rng)
            clicked = seen[rng.random(len(seen)) < truth[user, ranked[seen]]]
            items = [{"item_id": str(ranked[k]), "position": int(k) + 1} for k in seen]
            impressions.append({"request_id": request, "timestamp": at, "items": items})
            about = {"user_id": str(user), "action": "click", "timestamp": at, "request_id": request}
            events += [
                about | {"item_id": str(ranked[k]), "position": int(k) + 1, "event_id": f"{request}-{k}"}
                for k in clicked
            ]
            if len(impressions) == _BATCH or place == count - 1:
                _posted(http, "/impressions", {"impressions": impressions})
                if events:
                    _posted(http, "/events", {"events": events})
                impressions, events = [], []
        return day


@dataclass
class Day:
    """What was ranked on a day: by which versions, and how good each ranking was against the truth (nDCG@10)."""

    times: list[float] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    quality: list[float] = field(default_factory=list)

    def last_hours(self, share: float) -> float:
        """The hours that the last rankings took, this share of all."""
        return (self.times[-1] - self.times[int(len(self.times) * (1 - share))]) / 3600

    def add(self, model: dict[str, str], quality: float) -> None:
        name = f"{model['version']} {model['role']}"
        self.versions[name] = self.versions.get(name, 0) + 1
        self.quality.append(quality)


def _quality(truth: np.ndarray, ranked: np.ndarray, candidates: np.ndarray) -> float:
    """nDCG@10 of a ranking; the gain of an item is the true probability of a click, so that no chance is in it."""
    discounts = 1 / np.log2(np.arange(BEST) + 2)
    best = np.sort(truth[candidates])[::-1][:BEST]
    return float(truth[ranked[:BEST]] @ discounts) / float(best @ discounts)


def _posted(http: httpx.Client, path: str, body: Any) -> Any:
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()
