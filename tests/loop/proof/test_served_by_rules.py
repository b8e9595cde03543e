"""Tests the log of rankings that rules changed and of requests that gave rows of their own, as a service writes it."""

import copy
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rules_service import FUSION, ITEMS, hold, ids, rank
from running_service import serving, wait_until
from synthetic_bundle import SCHEMA, go_live, publish

from loop.log.compact import compact
from loop.log.hours import hour_files
from loop.proof.replay import replay
from loop.proof.verify import Verification, verify
from service.sample.embedded_redis import EmbeddedRedis
from tables.log_records import RecordKind

NOW = int(time.time() * 1000)
COMPARED = copy.deepcopy(SCHEMA)
COMPARED["item"][3] |= {"within_request": True}  # the price
SPREAD = {"type": "spread", "feature": "tag", "distance": 3}
BOOST = {"type": "boost", "formula": "score * 3", "when": {"feature": "tag", "one_of": ["1", "2"]}}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A log of two pages of a list that rules spread, of a list that a rule boosts, and of requests with own rows."""
    folder = tmp_path_factory.mktemp("rules")
    registry = folder / "registry"
    publish(registry, "1", schema=COMPARED)
    go_live(registry, "1")
    (folder / "fusion.yaml").write_text(FUSION)
    log = folder / "log"
    kit = SimpleNamespace(wait_until=wait_until)
    settings: dict[str, Any] = {"exposure_log": log, "fusion_file": folder / "fusion.yaml"}
    with EmbeddedRedis() as own, serving(folder, registry, own.url, workers=2, **settings) as server:
        hold(kit, server, SPREAD, rules={"shop": [BOOST]})
        first = rank(server, request_id="paged", top_k=5)
        second = rank(server, request_id="paged", top_k=5, page=first["page"])
        boosted = rank(server, request_id="boosted", scene="shop")
        given = [ITEMS[0], {"item_id": "1"}, *ITEMS[2:]]
        behaviours = [{"item_id": "3", "action": "click", "timestamp": NOW - 5000}]
        rank(server, request_id="user", candidates=given, user_features={"gender": "f"}, scene="home")
        rank(server, request_id="behaviours", candidates=given, behaviours=behaviours, scene="home")
        logged = 'funnelrank_exposure_log_records_total{kind="exposures",outcome="written"} 5.0'
        wait_until(lambda: logged in server.http.get("/metrics").text)
    compact(log)
    return SimpleNamespace(log=log, registry=registry, pages=[first, second], boosted=boosted)


def records(log: Path, request_id: str) -> list[dict[str, Any]]:
    rows = [row for path in hour_files(log, RecordKind.EXPOSURES) for row in pq.read_table(path).to_pylist()]
    return sorted((row for row in rows if row["request_id"] == request_id), key=lambda row: row["logged_ms"])


def test_a_page_is_logged_with_the_number_of_items_before_it(served: SimpleNamespace) -> None:
    logged = records(served.log, "paged")
    assert [record["ranked_before"] for record in logged] == [0, 5]
    for record, page in zip(logged, served.pages, strict=True):
        assert record["item_ids"][: record["returned"]] == ids(page)
        ranks = range(record["ranked_before"] + 1, record["ranked_before"] + 1 + record["returned"])
        assert [entry["rank"] for entry in page["ranking"]] == list(ranks)


def test_a_ranking_that_rules_changed_replays_bit_for_bit(served: SimpleNamespace) -> None:
    (record,) = records(served.log, "boosted")
    shown = [entry["score"] for entry in served.boosted["ranking"]]
    assert max(shown) == 3 * 5  # of the item 5, whose price is 5
    assert max(record["scores"]) == 11
    assert replay(served.log, served.registry, "boosted").differing == []


def test_compared_candidates_are_verified_from_a_part_of_the_list(served: SimpleNamespace) -> None:
    """The log has 5 of the 12 candidates with which the prices of a page were compared."""
    assert [len(record["item_ids"]) for record in records(served.log, "paged")] == [5, 5]
    assert verify(served.log, served.registry).skews == {}


def verified(served: SimpleNamespace, folder: Path, price: float | None = None) -> Verification:
    """Verify against tables that have a price of the item 1, and nothing else."""
    folder.mkdir()
    row = {"item_id": "1", "tag": None, "topics": None, "price": price, "quality": None}
    schema = pa.schema(
        [
            ("item_id", pa.string()),
            ("tag", pa.string()),
            ("topics", pa.list_(pa.string())),
            ("price", pa.float64()),
            ("quality", pa.float64()),
        ]
    )
    pq.write_table(pa.Table.from_pylist([row], schema), folder / "items.parquet")
    return verify(served.log, served.registry, folder)


def test_what_a_request_gave_is_not_compared_with_the_tables(served: SimpleNamespace, tmp_path: Path) -> None:
    done = verified(served, tmp_path / "same")
    assert done.skews == {}
    assert done.skipped == {
        "the request gave its user": 1,
        "the request gave its behaviours": 1,
        "the request gave features of the item": 5 + 5 + 12 + 11 + 11,
    }
    # An item of the store beside them is compared.
    skew = verified(served, tmp_path / "other", 9.0).skews["item.price"]
    assert (skew.count, "row '1': served missing, computed 9" in skew.example) == (2, True)


def test_a_score_that_is_missing_now_is_named(served: SimpleNamespace, tmp_path: Path) -> None:
    publish(tmp_path / "registry", "1", schema=COMPARED, nan_above=11.5)  # of price and quality: the item 11
    done = verify(served.log, tmp_path / "registry")
    assert "row '11'" in done.skews["task pctr"].example
    assert "computed nan" in done.skews["task pctr"].example


def test_a_bundle_that_is_rejected_is_counted(served: SimpleNamespace, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    shutil.copytree(served.registry, registry)
    graph = registry / "synthetic" / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    done = verify(served.log, registry)
    (reason,) = done.skipped
    assert reason.startswith("the bundle synthetic/1 is rejected (")
    assert done.skipped[reason] == done.exposures == 5


def test_a_bundle_that_was_published_again_with_another_schema_is_counted(
    served: SimpleNamespace, tmp_path: Path
) -> None:
    publish(tmp_path / "registry", "1")
    done = verify(served.log, tmp_path / "registry")
    assert done.skipped == {"synthetic/1 reads another feature schema than the request was logged with": 5}
