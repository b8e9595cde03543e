"""Tests the main path: every recipe trains on its sample, exports, loads into Redis and ranks over HTTP.

Each trains on a seeded subset of the sample with whole users, in this process, because there are many recipes and only
the path is tested. Taobao's log may not be copied into a repository, so its recipes use a synthetic log in the same
format.
"""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from running_service import Server, serving
from small_tables import RECIPE, make_tables, merged, write_tables
from taobao_log import write_log

from export.bundle import export_run
from funnelrank.main import main
from models.catalogue import CATALOGUE
from models.prepare.sample import sample_tables
from models.prepare.small import small_tables
from models.prepare.taobao import prepare_taobao
from models.recipe import load_recipe, parse_recipe
from models.simulators.run import write_log as simulate_log
from models.train import train
from service.sample.embedded_redis import EmbeddedRedis

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path for path in (ROOT / "models" / "recipes").rglob("*.yaml") if path.parent.name != "base")
LOADED = {path: load_recipe(path) for path in RECIPES}
QUICK = ("training.epochs=1", "training.evaluations_per_epoch=1")
PART_BYTES = {"kuairand": 1_000_000, "census": 200_000}


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A part of each data set by its name."""
    folder = tmp_path_factory.mktemp("parts")
    for name, size in PART_BYTES.items():
        sample_tables(ROOT / "sample" / name, folder / name, size, seed=1)
        small_tables(folder / name, folder / f"{name}-small")
    prepare_taobao(write_log(folder / "log"), folder / "taobao")
    simulate_log("position", 0.05, folder / "simulated-position")
    # The vectors that one of KuaiRand's recipes reads.
    kuairand = folder / "kuairand"
    dupn = ROOT / "models" / "recipes" / "kuairand-dupn.yaml"
    run("item-vectors", str(dupn), "--out", str(kuairand / "items-w2v.parquet"), "--set", f"data.dir={kuairand}")
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run(*arguments: str) -> None:
    """Run one command in this process: a separate interpreter for each would take longer than the work."""
    assert main(arguments) == 0


def rank(server: Server, request: dict[str, Any]) -> dict[str, Any]:
    done = server.http.post("/rank", json=request)
    assert done.status_code == 200, done.text
    answer: dict[str, Any] = done.json()
    return answer


def test_every_model_of_the_catalogue_goes_the_whole_path() -> None:
    assert {LOADED[path].model.architecture for path in LOADED} == set(CATALOGUE)


@pytest.mark.slow
@pytest.mark.parametrize("path", LOADED, ids=lambda p: p.stem)
def test_a_recipe_goes_from_the_sample_to_a_ranking(
    path: Path, parts: dict[str, Path], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = parts[Path(LOADED[path].data.dir).name]
    registry = tmp_path / "registry"
    recipe = load_recipe(path, (*QUICK, f"data.dir={data}"))
    train(recipe, tmp_path / "run", cache=cache, reading_steps=0, quiet=True)
    manifest = export_run(tmp_path / "run", registry, version=None).manifest
    run("rollout", recipe.name, "1", "--registry", str(registry))

    items = [str(i) for i in pq.read_table(data / "items.parquet", columns=["item_id"])["item_id"].to_pylist()[:100]]
    users = pq.read_table(data / recipe.data.impressions, columns=["user_id"])["user_id"]
    with EmbeddedRedis() as redis:
        monkeypatch.setenv("FUNNELRANK_REDIS_URL", redis.url)
        run("load", str(data), "--registry", str(registry))
        context = dict.fromkeys(feature.name for feature in manifest.feature_schema.context)
        own = {feature.name: 0.5 for feature in manifest.feature_schema.candidate}
        candidates = [{"item_id": item, "features": own} for item in items]
        with serving(tmp_path, registry, redis.url) as server:
            answer = rank(server, {"user_id": str(users[0].as_py()), "candidates": candidates, "context": context})
    assert answer["degraded"] == []
    assert answer["model"] == {"name": recipe.name, "version": "1", "role": "stable"}
    assert sorted(e["item_id"] for e in answer["ranking"]) == sorted(items)
    scores = [e["score"] for e in answer["ranking"]]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) > 50
    assert tuple(answer["ranking"][0]["predictions"]) == manifest.task_names


def test_a_class_task_is_ranked_by_the_probability_of_one_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = make_tables()
    shown = tables["impressions"]
    shown["stars"] = shown["click"] + shown["long_view"]
    stars = {"type": "independent", "name": "pstars", "label": "stars", "kind": {"type": "class", "classes": 3}}
    changes = {"data.dir": str(write_tables(tmp_path / "data", tables)), "tasks": [stars], "extra_evaluations": []}
    recipe = parse_recipe(merged(RECIPE, changes | {"training.epochs": 1}), "the test")
    registry = tmp_path / "registry"
    train(recipe, tmp_path / "run", cache=tmp_path / "cache", reading_steps=0, quiet=True)
    manifest = export_run(tmp_path / "run", registry, version=None).manifest
    assert [(task.name, task.kind, task.label) for task in manifest.tasks] == [
        (f"pstars_{i}", "class", f"stars = {i}") for i in range(3)
    ]
    run("rollout", recipe.name, "1", "--registry", str(registry))
    fusion = tmp_path / "fusion.yaml"
    fusion.write_text("profiles: {default: {kind: weighted_sum, weights: {pstars_2: 1.0}}}\n")

    items = [str(i) for i in tables["items"]["item_id"]]
    with EmbeddedRedis() as redis:
        monkeypatch.setenv("FUNNELRANK_REDIS_URL", redis.url)
        run("load", str(tmp_path / "data"), "--registry", str(registry))
        with serving(tmp_path, registry, redis.url, fusion_file=fusion) as server:
            answer = rank(server, {"user_id": "1", "candidates": items})
    predictions = [entry["predictions"] for entry in answer["ranking"]]
    of_class = [p["pstars_2"] for p in predictions]
    assert of_class == sorted(of_class, reverse=True) and len(set(of_class)) > 10
    assert [entry["score"] for entry in answer["ranking"]] == pytest.approx(of_class)
    assert all(sum(p.values()) == pytest.approx(1, abs=1e-6) for p in predictions)
