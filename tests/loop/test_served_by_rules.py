"""Tests the log of rankings that rules changed and of requests that gave rows of their own, as a service writes it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from rules_service import FUSION, hold, ids, rank
from running_service import serving, wait_until
from synthetic_bundle import go_live, publish

from loop.log.compact import compact
from loop.log.hours import hour_files
from loop.proof.replay import replay
from service.sample.embedded_redis import EmbeddedRedis
from tables.log_records import RecordKind

SPREAD = {"type": "spread", "feature": "tag", "distance": 3}
BOOST = {"type": "boost", "formula": "score * 3", "when": {"feature": "tag", "one_of": ["1", "2"]}}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A log of two pages of one list that rules spread, and of a list that a rule boosts, with the answers."""
    folder = tmp_path_factory.mktemp("rules")
    registry = folder / "registry"
    publish(registry, "1")
    go_live(registry, "1")
    (folder / "fusion.yaml").write_text(FUSION)
    log = folder / "log"
    kit = SimpleNamespace(wait_until=wait_until)
    settings: dict[str, Any] = {"exposure_log": log, "exposure_cut": True, "fusion_file": folder / "fusion.yaml"}
    with EmbeddedRedis() as own, serving(folder, registry, own.url, workers=2, **settings) as server:
        hold(kit, server, SPREAD, rules={"shop": [BOOST]})
        first = rank(server, request_id="paged", top_k=5)
        second = rank(server, request_id="paged", top_k=5, page=first["page"])
        boosted = rank(server, request_id="boosted", scene="shop")
        logged = 'funnelrank_exposure_log_records_total{kind="exposures",outcome="written"} 3.0'
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


def test_rankings_that_rules_changed_replay_bit_for_bit(served: SimpleNamespace) -> None:
    (record,) = records(served.log, "boosted")
    shown = [entry["score"] for entry in served.boosted["ranking"]]
    assert max(shown) == 3 * 5  # of the item 5, whose price is 5
    assert max(record["scores"]) == 11
    for request in ("boosted", "paged"):
        assert replay(served.log, served.registry, request).differing == []
