"""Tests the main path: every recipe trains on its sample, exports, loads into Redis and ranks over HTTP.

Each trains on a seeded subset of the sample with whole users, in this process, because there are many recipes and only
the path is tested. Taobao's log may not be copied into a repository, so its recipes use a synthetic log in the same
format.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from small_tables import RECIPE, make_tables, merged, write_tables
from taobao_log import write_log

from export.bundle import export_run
from models.catalogue import CATALOGUE
from models.prepare.sample import sample_tables
from models.prepare.taobao import prepare_taobao
from models.recipe import load_recipe, parse_recipe
from models.simulators.run import write_log as simulate_log
from models.train import train
from service.sample.calls import call, wait_until_ready
from service.sample.embedded_redis import EmbeddedRedis, free_port

ROOT = Path(__file__).parents[1]
LOADED = {path: load_recipe(path) for path in sorted((ROOT / "models" / "recipes").glob("*.yaml"))}
QUICK = ("training.epochs=1", "training.evaluations_per_epoch=1")
PART_BYTES = {"kuairand": 1_000_000, "census": 200_000}


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A part of each data set by its name."""
    folder = tmp_path_factory.mktemp("parts")
    for name, size in PART_BYTES.items():
        sample_tables(ROOT / "sample" / name, folder / name, size, seed=1)
    prepare_taobao(write_log(folder / "log"), folder / "taobao")
    simulate_log("position", 0.05, folder / "simulated-position")
    return {name: folder / name for name in (*PART_BYTES, "taobao", "simulated-position")}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run(*arguments: str, redis_url: str = "") -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"FUNNELRANK_REDIS_URL": redis_url} if redis_url else {})
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def serving(registry: Path, redis_url: str, **settings: str) -> Iterator[str]:
    port = free_port()
    environment = {n: v for n, v in os.environ.items() if not n.startswith("FUNNELRANK_")}
    environment |= {
        "FUNNELRANK_REGISTRY": str(registry),
        "FUNNELRANK_REDIS_URL": redis_url,
        "FUNNELRANK_PORT": str(port),
        **settings,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "serve"], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(process, f"{url}/readyz", 60)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def rank(url: str, request: dict[str, Any]) -> dict[str, Any]:
    status, body = call("POST", f"{url}/rank", request, timeout_s=30)
    assert status == 200, body
    answer: dict[str, Any] = body
    return answer


def test_every_model_of_the_catalogue_goes_the_whole_path() -> None:
    assert {LOADED[path].model.architecture for path in LOADED} == set(CATALOGUE)


@pytest.mark.slow
@pytest.mark.parametrize("path", LOADED, ids=lambda p: p.stem)
def test_a_recipe_goes_from_the_sample_to_a_ranking(
    path: Path, parts: dict[str, Path], cache: Path, tmp_path: Path
) -> None:
    data = parts[Path(LOADED[path].data.dir).name]
    registry = tmp_path / "registry"
    recipe = load_recipe(path, (*QUICK, f"data.dir={data}"))
    train(recipe, tmp_path / "run", cache=cache, reading_steps=0, quiet=True)
    manifest = export_run(tmp_path / "run", registry, version=None).manifest
    run("service", "rollout", recipe.name, "1", "--registry", str(registry))

    items = [str(i) for i in pq.read_table(data / "items.parquet", columns=["item_id"])["item_id"].to_pylist()[:100]]
    users = pq.read_table(data / recipe.data.impressions, columns=["user_id"])["user_id"]
    with EmbeddedRedis() as redis:
        run("service", "load", str(data), "--registry", str(registry), redis_url=redis.url)
        context = dict.fromkeys(feature.name for feature in manifest.feature_schema.context)
        with serving(registry, redis.url) as url:
            answer = rank(url, {"user_id": str(users[0].as_py()), "candidates": items, "context": context})
    assert answer["degraded"] == []
    assert answer["model"] == {"name": recipe.name, "version": "1", "role": "stable"}
    assert sorted(e["item_id"] for e in answer["ranking"]) == sorted(items)
    scores = [e["score"] for e in answer["ranking"]]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) > 50
    assert tuple(answer["ranking"][0]["predictions"]) == manifest.task_names


def test_a_class_task_is_ranked_by_the_probability_of_one_class(tmp_path: Path) -> None:
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
    run("service", "rollout", recipe.name, "1", "--registry", str(registry))
    fusion = tmp_path / "fusion.yaml"
    fusion.write_text("profiles: {default: {kind: weighted_sum, weights: {pstars_2: 1.0}}}\n")

    items = [str(i) for i in tables["items"]["item_id"]]
    with EmbeddedRedis() as redis:
        run("service", "load", str(tmp_path / "data"), "--registry", str(registry), redis_url=redis.url)
        with serving(registry, redis.url, FUNNELRANK_FUSION_FILE=str(fusion)) as url:
            answer = rank(url, {"user_id": "1", "candidates": items})
    predictions = [entry["predictions"] for entry in answer["ranking"]]
    of_class = [p["pstars_2"] for p in predictions]
    assert of_class == sorted(of_class, reverse=True) and len(set(of_class)) > 10
    assert [entry["score"] for entry in answer["ranking"]] == pytest.approx(of_class)
    assert all(sum(p.values()) == pytest.approx(1, abs=1e-6) for p in predictions)
