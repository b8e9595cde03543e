"""Tests the scale benchmark of Redis at small sizes: its tables, its sizes, and what it calls a wrong ranking."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from synthetic_bundle import SCHEMA

from bench.scale import redis_nodes
from bench.scale.parts import ScaleSizes
from bench.scale.redis_nodes import fitting
from bench.scale.redis_rankings import wrong
from bench.scale.redis_tables import BEHAVIOURS_PER_USER, write_tables
from bench.scale.run import run_scale
from features import FeatureSchema
from features.layouts import Layouts

SAMPLE = Path(__file__).parents[3] / "sample"
SCORES = {"a": 0.5, "b": 0.4, "c": 0.3}


def answer(degraded: list[str], **changed: float) -> dict[str, Any]:
    scores = SCORES | changed
    return {"degraded": degraded, "ranking": [{"item_id": i, "score": s} for i, s in scores.items()]}


@pytest.mark.parametrize(
    ("given", "is_wrong"),
    [
        (answer([]), False),
        (answer([], a=0.6), True),
        (answer(["unknown_items:1"], a=0.6), True),
        (answer(["unknown_items:1", "store_unavailable:1"], a=0.6), False),
        (answer(["store_unavailable:1"], a=0.6, b=0.6), True),
        (answer(["unknown_user", "store_unavailable:1"], a=0.6, b=0.6), False),
        (answer(["unknown_user"], a=0.6, b=0.6), True),
        (answer(["store_unavailable"], a=0.6, b=0.6, c=0.6), False),
        ({"degraded": [], "ranking": []}, True),
    ],
)
def test_only_what_a_ranking_says_to_lack_may_differ(given: dict[str, Any], is_wrong: bool) -> None:
    assert bool(wrong(given, SCORES)) is is_wrong


def test_both_counts_are_halved_until_the_memory_is_enough() -> None:
    layouts = Layouts.of(FeatureSchema.model_validate(SCHEMA))
    assert fitting(layouts, 1_000, 400, most_gib=1) == (1_000, 400)
    users, items = fitting(layouts, 5_000_000, 2_000_000, most_gib=1)
    assert 5_000_000 % users == 0
    assert 2_000_000 // items == 5_000_000 // users
    assert fitting(layouts, 2 * users, 2 * items, most_gib=1) == (users, items)


def test_the_tables_have_the_sample_s_rows_and_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tables(SAMPLE / "kuairand", tmp_path / name, 5_500, 9_000)
    for table, rows in (("users", 5_500), ("items", 9_000), ("behaviours", 5_500 * BEHAVIOURS_PER_USER)):
        one, other = (pq.read_table(tmp_path / name / table) for name in ("a", "b"))
        assert one.num_rows == rows
        assert one.equals(other)
    items = pq.read_table(tmp_path / "a" / "items").to_pylist()
    sample = pq.read_table(SAMPLE / "kuairand" / "items.parquet").to_pylist()
    assert items[8_001] | {"item_id": 0} == sample[8_001 % len(sample)] | {"item_id": 0}
    assert items[8_001]["item_id"] == "v8001"


@pytest.mark.slow  # six nodes and two services
def test_the_command_counts_no_wrong_ranking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(redis_nodes, "_SETTLE_SECONDS", 0.5)
    out = tmp_path / "scale.json"
    assert run_scale(ScaleSizes(redis_users=1_000, redis_items=1_000, redis_slots=10), ("redis",), out)
    measured = json.loads(out.read_text())["parts"]["redis"]
    assert measured["load"]["rows"] == 2_000 + 1_000 * BEHAVIOURS_PER_USER
    phases = measured["phases"]
    assert list(phases) == ["calm", "10 slots move", "a primary fails over", "after it"]
    for name, sides in phases.items():
        for side in ("primaries", "replicas"):
            assert (sides[side]["failed"], sides[side]["wrong"]) == (0, []), (name, side)
            assert sides[side]["whole"] > 0
    assert phases["a primary fails over"]["primaries"]["incomplete"] > 0
    assert capsys.readouterr().out.count("PASS") == 3
