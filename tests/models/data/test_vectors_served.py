"""Tests the whole path of dense vectors: a run trains with them, is exported, loaded, and ranks as training scored."""

import numpy as np
import pandas as pd
import pytest
from running_service import serving
from served_run import run

from export.bundle import export_run
from funnelrank.main import main
from models import train as training
from models.data.cache import open_data
from models.recipe import RecipeError
from service.sample.embedded_redis import EmbeddedRedis

VECTOR = {"name": "text", "type": "vector", "width": 3}


def with_vectors(tables):
    """Items with a vector that says which tags they have, users without a vector in part, impressions with one."""
    rng = np.random.default_rng(5)
    items, users, impressions = tables["items"], tables["users"], tables["impressions"]
    impressions["time_ms"] = impressions.time_ms // 14_400_000 * 14_400_000
    impressions["tab"] = impressions.user_id % 3
    impressions["battery"] = impressions.user_id / 100
    items["text"] = [None if i % 5 == 0 else rng.normal(size=3).astype(np.float32) for i in items.item_id]
    users["taste"] = [None if i % 4 == 0 else rng.normal(size=2) for i in users.user_id]
    query = {u: None if u % 7 == 0 else rng.normal(size=2) for u in range(100)}
    impressions["query"] = [query[u] for u in impressions.user_id]
    impressions["photo"] = [None if i % 6 == 0 else rng.normal(size=2) for i in range(len(impressions))]
    return tables


def changes(recipe):
    features = recipe.features.model_dump(mode="json")
    return {
        "features.user": [{"name": "taste", "type": "vector", "width": 2}, *features["user"]],
        "features.item": [features["item"][0], VECTOR, *features["item"][1:]],
        "features.context": [*features["context"], {"name": "query", "type": "vector", "width": 2, "project": 3}],
        "features.candidate": [{"name": "photo", "type": "vector", "width": 2}],
        "features.behaviour": features["behaviour"]
        | {"max_length": 60, "item_features": ["tags", "text", "item_id", "length"]},
    }


def test_a_service_scores_vectors_as_training_did(tiny_recipe, tables, tmp_path, capsys):
    tables = with_vectors(tables)
    recipe = tiny_recipe(tables, changes(tiny_recipe(tables)))
    training.train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    manifest = export_run(tmp_path / "run", tmp_path / "registry", version=None).manifest
    shapes = {spec.name: spec.shape for spec in manifest.inputs}
    assert shapes["item_numerics"] == ("C", 4) and shapes["user_numerics"] == (1, 3)
    assert shapes["behaviour_numerics"] == ("L", 4) and shapes["candidate_numerics"] == ("C", 2)
    assert manifest.item_numerics == ("text[0]", "text[1]", "text[2]", "length")
    registry = str(tmp_path / "registry")
    predict = ["predict", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"), "--against"]
    with EmbeddedRedis() as redis:
        run("service", "rollout", "tiny", "1", "--registry", registry, redis_url=redis.url)
        run("service", "load", str(tmp_path / "data"), "--registry", registry, redis_url=redis.url)
        with serving(tmp_path, tmp_path / "registry", redis.url, score_chunk=2) as server:
            assert main([*predict, server.url]) == 0
            _check_requests(server)
    lines = capsys.readouterr().out.splitlines()
    differences = [float(line.split()[-1]) for line in lines if "largest difference" in line]
    assert len(differences) == 4 and max(differences) < 1e-6


def _check_requests(server):
    own = {"item_id": "2", "features": {"text": [9.0, -9.0, 9.0]}}
    request = {"user_id": "3", "candidates": ["1", "2"], "context": {"query": [0.5, 1], "tab": 1}}
    plain = _scores(server, request)
    changed = _scores(server, request | {"candidates": ["1", own]})
    assert plain["1"] == changed["1"] and plain["2"] != changed["2"]
    # A vector that is written to the store is the one that a request would bring.
    written = {"items": [own | {"features": {"text": [9, -9, 9]}}]}
    done = server.put("/features/items", written)
    assert done.status_code == 200, done.text
    assert _scores(server, request)["2"] == changed["2"]
    stored = server.http.get("/store/items/2", headers={"Authorization": "Bearer secret"}).json()
    assert stored["schemas"][0]["row"]["features"]["text"]["vector"] == [9.0, -9.0, 9.0]
    # Refusals name the field.
    for values, where, message in (
        ({"text": [1, 2]}, "text", "a vector has 3 numbers, this one 2"),
        ({"text": [1, 2, None]}, "text", "element 3 is null; a vector is whole"),
        ({"photo": [1, "2"]}, "photo", "element 2: a numeric value is a number or null, not str"),
        ({"photo": [1, 10**400]}, "photo", "element 2: a numeric value lies within"),
    ):
        refused = server.http.post("/rank", json=request | {"candidates": ["1", {"item_id": "2", "features": values}]})
        assert refused.status_code == 422, refused.text
        error = refused.json()["errors"][0]
        assert error["field"] == f"candidates[1].features.{where}" and error["message"].startswith(message)
    refused = server.http.post("/rank", json=request | {"context": {"query": [1, 2, 3]}})
    assert refused.json()["errors"][0]["field"] == "context.query"


def _scores(server, request):
    done = server.http.post("/rank", json=request)
    assert done.status_code == 200, done.text
    return {item["item_id"]: item["score"] for item in done.json()["ranking"]}


def test_statistics_are_those_of_the_single_numbers_and_vectors_reach_a_batch_unchanged(tiny_recipe, tables, tmp_path):
    plain = open_data(tiny_recipe(tables), tmp_path / "cache")
    tables = with_vectors(tables)
    data = open_data(tiny_recipe(tables, changes(tiny_recipe(tables))), tmp_path / "cache")
    item = data.encoding.numerics["item"]
    assert item.mean.shape == (1,) and data.encoding.numerics["behaviour"].mean.shape == (2,)
    np.testing.assert_allclose(item.mean, plain.encoding.numerics["item"].mean, rtol=0.2)
    stored = {tuple(np.float32(v)) for v in tables["items"]["text"] if v is not None}
    seen = np.asarray(data.item_numerics)[:, :3]
    present = ~np.isnan(seen).any(1)
    assert {tuple(v) for v in seen[present]} == stored
    assert np.isnan(seen[~present]).all() and (~present).any()


def test_training_refuses_a_bad_vector_by_column_and_row(tiny_recipe, tables, tmp_path):
    tables = with_vectors(tables)
    recipe = changes(tiny_recipe(tables))
    tables["items"]["text"] = pd.Series([[1.0, 2.0, 3.0], [1.0, 2.0], *[None] * (len(tables["items"]) - 2)])
    with pytest.raises(RecipeError, match=r"items.*column text: a vector has 3 numbers, this one 2 \(row 2\)"):
        open_data(tiny_recipe(tables, recipe), tmp_path / "cache")
