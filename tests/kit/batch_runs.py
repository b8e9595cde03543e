"""A registry, rows in Redis and tables of users, for tests of batch runs against a live service."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import redis
from rules_service import PIN
from running_service import serving
from synthetic_bundle import SCHEMA, go_live, publish

from batch.job import BatchOptions
from batch.partition import BatchCounts
from batch.run import score as run
from batch.scorer import Scorer, ScorerStart
from batch.users import Partition
from features import FeatureSchema
from features.layouts import Layouts
from service.settings import Settings
from service.store.redis.keys import behaviours_key, item_key, user_key

ROOT = Path(__file__).parents[2]
NOW = 1_700_000_000_000
FUSION = """
revision: 4
profiles:
  default: {kind: weighted_sum, weights: {pctr: 1.0}}
  home: {kind: weighted_sum, weights: {pctr: 0.5, pctcvr: 2.0}}
scenes: {home: home}
"""
RULES = {
    "revision": 1,
    "rules": {
        "home": [PIN, {"type": "block", "item_ids": ["11"]}],
        "strict": [{"type": "block", "item_ids": ["12", "13"]}, {"type": "boost", "formula": "score * pctr"}],
    },
}
CONTEXT = {"tab": 1, "hour": 7}
# One candidate, several chunks, and lists with unknown items, for known and unknown users: 2,731 pairs.
LISTS = {"u1": ["5"], "u2": [str(i) for i in range(2000)], "stranger": [str(i) for i in range(2080, 2130)]}
LISTS |= {f"u{user}": [str(i) for i in range(user, user + 40)] for user in range(3, 20)}


def filled(folder: Path, redis_url: str) -> dict[str, str]:
    """Publish version 1 and store rows of most users and items; return the settings of a service and of a batch."""
    registry = folder / "registry"
    publish(registry, "1")
    go_live(registry, "1")
    (registry / "rules.json").write_text(json.dumps(RULES))
    (folder / "fusion.yaml").write_text(FUSION)
    layouts = Layouts.of(FeatureSchema.model_validate(SCHEMA))
    assert layouts.behaviour is not None
    name = layouts.fingerprint
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        # Every seventh item and every third user has no row, every fourth user no behaviours.
        for item in range(2100):
            if item % 7:
                row = {"item_id": str(item), "tag": str(item % 9), "price": item / 3, "quality": (item % 11) / 7}
                client.set(item_key(name, str(item)), layouts.item.pack(row))
        for user in range(60):
            if user % 3:
                client.set(user_key(name, f"u{user}"), layouts.user.pack({"user_id": f"u{user}", "age": user / 7}))
            if user % 4:
                item = layouts.item.pack({"item_id": str(user), "tag": "3", "price": 1.5})
                event = layouts.behaviour.pack_event(item, "click", 1, NOW - 5000)
                client.zadd(behaviours_key(name, f"u{user}"), {(7).to_bytes(8, "big") + event: NOW - 5000})
    return {"registry": str(registry), "redis_url": redis_url, "fusion_file": str(folder / "fusion.yaml")}


def write_users(path: Path, lists: dict[str, list[str]]) -> Path:
    """Write a table of users with their candidates."""
    column = pa.array(list(lists.values()), pa.list_(pa.string()))
    pq.write_table(pa.table({"user_id": list(lists), "candidates": column}), path)
    return path


def command_of(settings: dict[str, str], *arguments: Any) -> tuple[list[str], dict[str, str]]:
    """Return the command line and the environment of `funnelrank score`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FUNNELRANK_")}
    environment |= {f"FUNNELRANK_{name.upper()}": value for name, value in settings.items()}
    words = ["--scene", "home", "--context", json.dumps(CONTEXT), "--timestamp", str(NOW)]
    return [sys.executable, "-m", "funnelrank", "score", *words, *map(str, arguments)], environment


def score_by_command(settings: dict[str, str], *arguments: Any) -> "subprocess.CompletedProcess[str]":
    """Run `funnelrank score` to its end."""
    command, environment = command_of(settings, *arguments)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def score_here(
    settings: dict[str, str], users: Path | str, out: Path, candidates: str | None = None, **options: Any
) -> BatchCounts:
    """Score in this process, without a pool."""
    read = Settings.from_environment({f"FUNNELRANK_{name.upper()}": value for name, value in settings.items()})
    chosen = BatchOptions(**({"timestamp": NOW, "scene": "home", "context": CONTEXT} | options))
    return run(str(users), candidates, out, chosen, read, _in_this_process, lambda line: None)


def _in_this_process(start: ScorerStart, partitions: Iterator[Partition]) -> Iterator[BatchCounts]:
    scorer = Scorer(start)
    try:
        yield from map(scorer.score, partitions)
    finally:
        scorer.close()


def rankings(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a batch's partitions by user."""
    users: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(out.glob("part-*.parquet")):
        for row in pq.read_table(path).to_pylist():
            users.setdefault(row["user_id"], []).append(row)
    return users


def assert_as_served(out: Path, settings: dict[str, str], route: str = "/rank", **choice: str) -> int:
    """Compare a batch over LISTS with the answers of a service with the same settings; return the number of pairs."""
    batch = rankings(out)
    assert list(batch) == list(LISTS)
    folder = Path(settings["registry"]).parent
    others = {name: value for name, value in settings.items() if name not in ("registry", "redis_url")}
    headers = {"Authorization": "Bearer secret"}
    pairs = 0
    with serving(folder, Path(settings["registry"]), settings["redis_url"], **others) as server:
        for user, candidates in LISTS.items():
            body = {"user_id": user, "candidates": candidates, "context": CONTEXT, "scene": "home", "timestamp": NOW}
            answer = server.http.post(route, json=body | choice, headers=headers)
            assert answer.status_code == 200, answer.text
            pairs += _assert_equal(batch[user], answer.json())
    return pairs


def _assert_equal(rows: list[dict[str, Any]], answer: dict[str, Any]) -> int:
    """Compare a user's rows with the answer of the service, bit for bit; return the number of pairs."""
    assert [row["item_id"] for row in rows] == [entry["item_id"] for entry in answer["ranking"]]
    for row, entry in zip(rows, answer["ranking"], strict=True):
        assert row["rank"] == entry["rank"]
        assert row["score"] == entry["score"]
        assert row["model"] == f"{answer['model']['name']}/{answer['model']['version']}"
        assert row["profile"] == answer["fusion"]["profile"]
        assert row["degraded"] == answer["degraded"]
        for task, value in entry["predictions"].items():
            assert np.float32(row["predictions"][task]) == np.float32(value)
    return len(rows)
