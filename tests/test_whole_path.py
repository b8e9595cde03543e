"""The promise of the main job: every recipe trains on the sample, exports, loads into Redis and ranks over HTTP as its golden requests say."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from models.recipe import Recipe, load_recipe
from service.embedded_redis import EmbeddedRedis, free_port

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "models" / "recipes").glob("*.yaml"))
QUICK = ("training.epochs=1", "training.evaluations_per_epoch=1")
ONE_DAY = "data.split.train=[20220504]"


def run(*arguments: str, redis_url: str = "") -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"FUNNELRANK_REDIS_URL": redis_url} if redis_url else {})
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def serving(registry: Path, redis_url: str) -> Iterator[str]:
    port = free_port()
    environment = {n: v for n, v in os.environ.items() if not n.startswith("FUNNELRANK_")}
    environment |= {"FUNNELRANK_REGISTRY": str(registry), "FUNNELRANK_REDIS_URL": redis_url, "FUNNELRANK_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-m", "service", "serve"], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while not answers(f"{url}/readyz"):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def rank(url: str, request: dict[str, Any]) -> dict[str, Any]:
    call = urllib.request.Request(f"{url}/rank", json.dumps(request).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(call, timeout=30) as answer:
        body: dict[str, Any] = json.load(answer)
        return body


def sample_of(recipe: Recipe) -> Path:
    assert recipe.data.fallback is not None
    return ROOT / recipe.data.fallback


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_goes_from_the_sample_to_a_ranking(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    sample, registry = sample_of(recipe), tmp_path / "registry"
    settings = [*QUICK, f"data.dir={sample}", *([ONE_DAY] if sample.name == "kuairand" else [])]
    overrides = [word for setting in settings for word in ("--set", setting)]
    run(
        "models.train",
        str(path),
        "--out",
        str(tmp_path / "run"),
        "--cache",
        str(tmp_path / "cache"),
        "--threads",
        "1",
        "--reading-steps",
        "0",
        *overrides,
    )
    printed = run("export", str(tmp_path / "run"), "--registry", str(registry))
    assert "published" in printed
    manifest = json.loads((registry / recipe.name / "1" / "manifest.json").read_text())
    run("service", "rollout", recipe.name, "1", "--registry", str(registry))

    items = [str(i) for i in pq.read_table(sample / "items.parquet", columns=["item_id"])["item_id"].to_pylist()[:100]]
    users = pq.read_table(sample / recipe.data.impressions, columns=["user_id"])["user_id"]
    with EmbeddedRedis() as redis:
        run("service", "load", str(sample), "--registry", str(registry), redis_url=redis.url)
        with serving(registry, redis.url) as url:
            answer = rank(url, {"user_id": str(users[0].as_py()), "candidates": items})
    assert answer["degraded"] == []
    assert answer["model"] == {"name": recipe.name, "version": "1", "role": "stable"}
    assert sorted(e["item_id"] for e in answer["ranking"]) == sorted(items)
    scores = [e["score"] for e in answer["ranking"]]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) > 50
    assert list(answer["ranking"][0]["predictions"]) == [t["name"] for t in manifest["tasks"]]
