"""Tests the workload: distinct candidates, real skew, the requested share of unknown ids."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from loadtest.workload.counts import CandidateCounts
from loadtest.workload.workload import Popularity, Workload, WorkloadError, read_popularity


def workload(spec: str, items: int = 1000, unknown_share: float = 0.0) -> Workload:
    users = Popularity([f"u{n}" for n in range(50)], 1.0)
    videos = Popularity([f"i{n}" for n in range(items)], 1.0)
    return Workload(
        users, videos, CandidateCounts.parse(spec), unknown_share, {"scene": "home"}, np.random.default_rng(5)
    )


@pytest.mark.parametrize("spec", ["1", "200", "999", "1000"])
def test_candidates_are_distinct_even_when_all_items_are_asked_for(spec: str) -> None:
    request = workload(spec).next_request()
    assert len(set(request["candidates"])) == len(request["candidates"]) == int(spec)
    assert request["scene"] == "home"


def test_popular_items_come_in_proportion_to_one_over_their_rank() -> None:
    rng = np.random.default_rng(0)
    popularity = Popularity([str(n) for n in range(1000)], 1.0)
    drawn = Counter(popularity.draw(rng) for _ in range(20_000))
    harmonic = sum(1 / rank for rank in range(1, 1001))
    assert drawn["0"] / 20_000 == pytest.approx(1 / harmonic, rel=0.1)
    assert drawn["9"] / 20_000 == pytest.approx(0.1 / harmonic, rel=0.25)


def test_the_busiest_ids_of_the_behaviours_lead(ids: Path) -> None:
    rng = np.random.default_rng(0)
    assert read_popularity(ids, "users", "user_id", 1.0, rng).ids[:2] == ["7", "8"]
    assert read_popularity(ids, "items", "item_id", 1.0, rng).ids[:2] == ["42", "43"]


def test_ids_come_from_csv_too(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,tag\n5,a\n6,b\n")
    assert sorted(read_popularity(tmp_path, "items", "item_id", 1.0, np.random.default_rng(0)).ids) == ["5", "6"]


def test_ids_are_the_texts_that_the_load_writes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "items.csv").write_text("item_id\n007\n7\n")
    assert sorted(read_popularity(tmp_path, "items", "item_id", 1.0, rng).ids) == ["007", "7"]
    (tmp_path / "items.csv").write_text("item_id\n8.0\n7.0\n")
    (tmp_path / "behaviours.csv").write_text("user_id,item_id\n1,7\n")
    assert read_popularity(tmp_path, "items", "item_id", 1.0, rng).ids == ["7", "8"]
    pa.parquet.write_table(pa.table({"item_id": [17.0, 18.0]}), tmp_path / "items.parquet")
    assert sorted(read_popularity(tmp_path, "items", "item_id", 1.0, rng).ids) == ["17", "18"]


def test_a_table_that_cannot_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(WorkloadError, match="items.parquet: cannot be read"):
        read_popularity(tmp_path, "items", "item_id", 1.0, np.random.default_rng(0))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("video,tag\n5,a\n")
    with pytest.raises(
        WorkloadError, match=r"items.csv: no column 'item_id', which the load test names; nearest: video"
    ):
        read_popularity(tmp_path, "items", "item_id", 1.0, np.random.default_rng(0))


def test_the_asked_share_of_ids_is_unknown() -> None:
    load = workload("100", unknown_share=0.1)
    requests = [load.next_request() for _ in range(200)]
    strangers = sum(item.startswith("unknown-") for request in requests for item in request["candidates"])
    assert strangers / 20_000 == pytest.approx(0.1, abs=0.01)
    assert 5 < sum(request["user_id"].startswith("unknown-") for request in requests) < 40


def test_more_candidates_than_items_is_refused_before_the_run() -> None:
    with pytest.raises(WorkloadError, match="501 candidates are requested, but there are 500 items"):
        workload("10-501", items=500)


@pytest.mark.parametrize(("spec", "mean"), [("200", 200), ("50-150", 100), ("10:3,50:1", 20)])
def test_candidate_counts_follow_the_flag(spec: str, mean: float) -> None:
    rng = np.random.default_rng(2)
    counts = CandidateCounts.parse(spec)
    assert np.mean([counts.draw(rng) for _ in range(4000)]) == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize("spec", ["", "many", "0", "9-3", "10:0", "10:1,20", "-5"])
def test_a_senseless_count_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="none of 200|must be positive"):
        CandidateCounts.parse(spec)
