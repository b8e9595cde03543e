"""Tests what changes of lines answer: unknown scenes, the end of a line, rules that would empty a line's scene."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from service.sample.embedded_redis import EmbeddedRedis

FUSION = """
profiles: {default: {kind: weighted_sum, weights: {pctr: 1.0}}}
scenes: {home: default, detail: default}
"""
VERSION = {"name": "synthetic", "version": "1"}


@pytest.fixture
def running(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> Iterator[Any]:
    (tmp_path / "fusion.yaml").write_text(FUSION)
    with kit.serving(tmp_path, registry, redis_server.url, fusion_file=tmp_path / "fusion.yaml") as server:
        yield server


def test_changes_of_a_line_are_checked_and_answered_for_that_line(running: Any) -> None:
    # A scene that no profile has is a warning, because requests with it are refused.
    scenes = {"detial": "item_page", "detail": "item_page"}
    answer = running.put("/models/rollout", {"line": "item_page", "stable": VERSION, "scenes": scenes})
    assert answer.json()["warnings"] == [
        "scenes.detial: the fusion profiles have no scene 'detial'; did you mean 'detail'?"
    ]
    assert running.rank(["1"], scene="detial").status_code == 422
    answer = running.put("/models/rollout", {"scenes": {"detial": None}})
    assert (answer.json()["warnings"], answer.json()["served"]["state"]) == ([], "served")
    # Both lines share one version; rules are tried on the requests of each.
    for _ in range(6):
        assert running.rank(["1", "2"], scene="detail").json()["model"]["line"] == "item_page"
    answer = running.put("/rules", {"rules": {"default": [], "detail": [{"type": "block", "item_ids": ["1", "2"]}]}})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "rules.detail")
    # A line that ends is served as ended once the worker has dropped it.
    ended = running.put("/models/rollout", {"line": "item_page", "stable": None, "scenes": {"detail": None}})
    assert ended.json()["served"]["state"] == "served"
    assert "lines" not in running.http.get("/models").json()["worker"]
