"""Tests `funnelrank predict`: it scores every test impression, and a real service gives the same scores."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from running_service import serving
from served_run import predicted_against_a_service, run
from small_tables import DAY_MS, RECIPE, START_MS

from export.bundle import export_run
from funnelrank.main import main
from models import train as training
from models.data.cache import open_data
from models.training.evaluation import scores_of
from models.training.run import open_run
from service.sample.embedded_redis import EmbeddedRedis

TEST_START_MS = START_MS + 5 * DAY_MS
TEST_END_MS = START_MS + 8 * DAY_MS


def prepared(tables):
    """Several impressions per user and time, one item twice, and no behaviour during the test part's days."""
    impressions = tables["impressions"]
    impressions["time_ms"] = impressions.time_ms // 14_400_000 * 14_400_000
    impressions["tab"] = impressions.user_id % 3
    impressions["search"] = [f"0{n}" for n in range(len(impressions))]
    tables["behaviours"] = tables["behaviours"][tables["behaviours"].time_ms < TEST_START_MS]
    tables["users"] = tables["users"].iloc[3:]  # unknown users are scored too
    return tables


def trained(tiny_recipe, tables, tmp_path):
    recipe = tiny_recipe(prepared(tables), {"data.request_id": "search"})
    training.train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    return recipe


def test_every_test_impression_is_written_with_ids_labels_and_scores(tiny_recipe, tables, tmp_path, capsys):
    recipe = trained(tiny_recipe, tables, tmp_path)
    out = tmp_path / "scores.parquet"
    assert main(["predict", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"), "--out", str(out)]) == 0
    impressions = tables["impressions"]
    expected = impressions[(impressions.time_ms >= TEST_START_MS) & (impressions.time_ms < TEST_END_MS)]
    written = pq.read_table(out).to_pandas()
    assert f"{len(expected):,} impressions" in capsys.readouterr().out
    assert written.user_id.tolist() == expected.user_id.astype(str).tolist()
    assert written.item_id.tolist() == expected.item_id.astype(str).tolist()
    assert written.time_ms.tolist() == expected.time_ms.tolist()
    assert written.request_id.tolist() == expected.search.tolist(), "ids keep their zeros"
    assert written["label/click"].tolist() == expected.click.tolist()
    scores = scores_of(open_run(tmp_path / "run").ranker, open_data(recipe, tmp_path / "cache"), "test")
    for name, score in scores.items():
        np.testing.assert_array_equal(written[name].to_numpy(), np.exp(score))


def test_a_run_whose_tables_have_changed_is_refused(tiny_recipe, tables, tmp_path, capsys):
    trained(tiny_recipe, tables, tmp_path)
    tables["users"]["fans"] += 1
    tables["users"].to_parquet(tmp_path / "data" / "users.parquet", index=False)
    assert main(["predict", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]) == 1
    assert "is not what the run was trained on" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["ftp://somewhere", "http://127.0.0.1:1"])
def test_an_address_without_a_service_is_told(tiny_recipe, tables, tmp_path, capsys, url):
    trained(tiny_recipe, tables, tmp_path)
    assert main(["predict", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"), "--against", url]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_a_service_gives_the_scores_of_the_run(tiny_recipe, tables, tmp_path, capsys):
    trained(tiny_recipe, tables, tmp_path)
    registry = tmp_path / "registry"
    export_run(tmp_path / "run", registry, version=None)
    predict = ["predict", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"), "--against"]
    with EmbeddedRedis() as redis:
        run("service", "rollout", "tiny", "1", "--registry", str(registry), redis_url=redis.url)
        run("service", "load", str(tmp_path / "data"), "--registry", str(registry), redis_url=redis.url)
        with serving(tmp_path, registry, redis.url, item_cache_mb=0) as server:
            assert main([*predict, server.url]) == 0
            same = capsys.readouterr().out
            # A service with other features scores differently, and the command says so.
            body = [{"item_id": str(i), "features": {"length": 0.0}} for i in tables["items"].item_id]
            assert server.put("/features/items", {"items": body}).status_code == 200
            assert main([*predict, server.url]) == 1
    differences = [float(line.split()[-1]) for line in same.splitlines() if "largest difference" in line]
    assert len(differences) == 4 and max(differences) < 1e-6
    assert "to tiny/1" in same and "degraded: unknown_user in" in same
    error = capsys.readouterr().err
    assert "the service scores differently: " in error and "the first of user " in error


def test_candidates_are_compared_in_a_service_as_in_training_whatever_the_chunk(tiny_recipe, tables, tmp_path, capsys):
    """Requests of several impressions, scored three candidates at a time; the comparison uses the whole request."""
    prepared(tables)
    impressions = tables["impressions"]
    impressions["search"] = (
        impressions.user_id.astype(str) + "-" + (impressions.time_ms - START_MS).floordiv(DAY_MS // 2).astype(str)
    )
    impressions["tab"] = impressions.time_ms // 14_400_000 % 3  # a request has impressions of several contexts
    tables["impressions"] = impressions.drop_duplicates(["search", "item_id"])
    tables["items"].loc[4:8, "length"] = np.nan
    item = [*RECIPE["features"]["item"][:2], {"name": "length", "type": "numeric", "within_request": True}]
    changes = {"data.request_id": "search", "features.item": item, "training.ensemble": 2}
    recipe = tiny_recipe(tables, changes)
    training.train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    registry = tmp_path / "registry"
    manifest = export_run(tmp_path / "run", registry, version=None).manifest
    assert [spec.shape for spec in manifest.inputs if spec.name == "item_within"] == [("C", 2)]
    assert manifest.parity.max_abs_difference < 1e-5
    within = np.asarray(open_data(recipe, tmp_path / "cache").parts["test"].within)
    assert np.nanstd(within[:, 0]) > 1 and np.nanstd(within[:, 1]) > 0.1, "the requests have something to compare"
    predicted_against_a_service(tmp_path, capsys, score_chunk=3)


def test_a_service_scores_candidates_own_features_as_training_did(tiny_recipe, tables, tmp_path, capsys):
    prepared(tables)
    impressions = tables["impressions"]
    impressions["price_now"] = (impressions.item_id * 1.5 + impressions.click).where(impressions.item_id % 5 > 0)
    impressions["retrieval"] = np.where(impressions.item_id % 2 == 0, "two_tower", "trending")
    own = [{"name": "price_now", "type": "numeric", "transform": "log1p"}, {"name": "retrieval", "type": "categorical"}]
    changes = {"data.request_id": "search", "features.candidate": own}
    recipe = tiny_recipe(tables, changes)
    training.train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    registry = tmp_path / "registry"
    manifest = export_run(tmp_path / "run", registry, version=None).manifest
    assert [spec.shape for spec in manifest.inputs if spec.name.startswith("candidate_")] == [("C", 1), ("C", 1)]
    assert manifest.parity.max_abs_difference < 1e-5
    lines = predicted_against_a_service(tmp_path, capsys, score_chunk=2)
    assert not any("missing_features" in line for line in lines)
