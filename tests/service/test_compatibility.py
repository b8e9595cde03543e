"""Tests that every later version ranks a published bundle, its documents and its Redis rows bit for bit.

Version 0.1.0 wrote the fixture. Scores are compared with those of ONNX Runtime for the recorded graph inputs, computed
on this machine, because two processors may round a product differently. If this machine rounds like that of the
fixture, whole answers are compared.
"""

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_http
import numpy as np
import onnxruntime as ort
import pytest
import redis

from service.sample.embedded_redis import EmbeddedRedis

FIXTURE = Path(__file__).parents[1] / "fixtures" / "kuairand-mmoe-format-1"
PAIRS = [json.loads(line.rstrip(",\n")) for line in (FIXTURE / "requests.json").read_text().splitlines()[1:-1]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, kit: SimpleNamespace) -> Iterator[Any]:
    """The present service on the rows, bundle and documents of version 0.1.0."""
    registry = tmp_path_factory.mktemp("compatibility") / "registry"
    shutil.copytree(FIXTURE / "registry", registry)
    with EmbeddedRedis() as server:
        with redis.Redis.from_url(server.url) as store:
            restore(store, json.loads((FIXTURE / "redis.json").read_text()))
        with kit.serving(registry.parent, registry, server.url, score_chunk="2000") as running:
            yield running


def restore(store: redis.Redis, rows: dict[str, Any]) -> None:
    """Write the dumped keys into an empty Redis."""
    for key, row in rows.items():
        match row["type"]:
            case "hash":
                store.hset(key, mapping=row["value"])
            case "string":
                store.set(key, base64.b64decode(row["value"]))
            case "zset":
                store.zadd(key, {base64.b64decode(member): score for member, score in row["value"]})


@pytest.fixture(scope="module")
def scores_here() -> list[np.ndarray]:
    """Task scores `[tasks, C]` of each request: the frozen graph on the frozen inputs, computed on this machine."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    graph = FIXTURE / "registry" / "kuairand-mmoe" / "1" / "model.onnx"
    session = ort.InferenceSession(graph.read_bytes(), options, providers=["CPUExecutionProvider"])
    tasks = [task["name"] for task in manifest()["tasks"]]
    return [np.stack(session.run(tasks, inputs_of(number))) for number in range(len(PAIRS))]


def manifest() -> dict[str, Any]:
    text = (FIXTURE / "registry" / "kuairand-mmoe" / "1" / "manifest.json").read_text()
    return dict(json.loads(text))


def inputs_of(number: int) -> dict[str, np.ndarray]:
    with np.load(FIXTURE / "inputs.npz") as arrays:
        prefix = f"{number}/inputs/"
        return {name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)}


def scores_of_then(number: int) -> np.ndarray:
    with np.load(FIXTURE / "inputs.npz") as arrays:
        return np.asarray(arrays[f"{number}/scores"])


@pytest.mark.parametrize("number", range(len(PAIRS)))
def test_a_published_bundle_is_ranked_bit_equal(service: Any, scores_here: list[np.ndarray], number: int) -> None:
    request = PAIRS[number]["request"]
    expected = PAIRS[number]["answer"]
    answer = service.http.post("/rank", json=request)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert {name: body[name] for name in ("request_id", "model", "fusion", "coverage")} == {
        name: expected[name] for name in ("request_id", "model", "fusion", "coverage")
    }
    # A later version may report more missing features, never fewer.
    assert set(expected["degraded"]) <= set(body["degraded"])
    assert_scores_equal(body["ranking"], request["candidates"], scores_here[number])
    if np.array_equal(scores_here[number], scores_of_then(number)):
        assert body["ranking"] == expected["ranking"]


def assert_scores_equal(ranking: list[dict[str, Any]], candidates: list[Any], scores: np.ndarray) -> None:
    """Check that each entry's predictions equal the graph's scores of that candidate, bit for bit."""
    ids = [candidate if isinstance(candidate, str) else candidate["item_id"] for candidate in candidates]
    tasks = [task["name"] for task in manifest()["tasks"]]
    for entry in ranking:
        place = ids.index(entry["item_id"])
        served = np.array([entry["predictions"][task] for task in tasks], dtype=np.float32)
        assert np.array_equal(served, scores[:, place])


def test_the_scores_of_then_are_those_of_here_but_for_rounding(scores_here: list[np.ndarray]) -> None:
    for number, scores in enumerate(scores_here):
        np.testing.assert_allclose(scores, scores_of_then(number), rtol=0, atol=2e-6)


def test_documents_of_then_are_followed(service: Any) -> None:
    fusion = service.http.get("/fusion").json()
    assert fusion["revision"] == 3
    assert [state["revision"] for state in fusion["history"]] == [2, 1]
    models = fresh_http.get(f"{service.url}/models").json()
    assert models["rollout"]["revision"] == 2
    assert models["rollout"]["limits"]["psi"] == 0.3
