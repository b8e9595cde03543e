"""Fixtures of the service's tests: a synthetic bundle, a real Redis, real servers."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from object_store import URI, ObjectStore, empty_bucket
from redis_cluster import redis_cluster
from running_service import Server, recovered, serving, wait_until
from synthetic_bundle import SCHEMA, TASKS, go_live, golden_inputs, graph_of, publish, scores_by_hand, without_task

from features import FeatureSchema
from features.layouts import Layouts
from service.addresses.registry_address import registry_folder
from service.sample.embedded_redis import EmbeddedRedis

FUSION = """
revision: 4
profiles:
  default: {kind: weighted_sum, weights: {pctr: 1.0}}
  home: {kind: weighted_sum, weights: {pctr: 0.5, pctcvr: 2.0}}
  shop: {kind: weighted_product, weights: {pctr: 0.5, pcvr: 2.0}}
scenes: {home: home, shop: shop}
"""


@pytest.fixture(scope="session")
def schema() -> FeatureSchema:
    return FeatureSchema.model_validate(SCHEMA)


@pytest.fixture(scope="session")
def layouts(schema: FeatureSchema) -> Layouts:
    return Layouts.of(schema)


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The helpers of this file, for tests to call."""
    functions = (
        publish,
        without_task,
        go_live,
        serving,
        scores_by_hand,
        golden_inputs,
        graph_of,
        wait_until,
        recovered,
    )
    return SimpleNamespace(SCHEMA=SCHEMA, TASKS=TASKS, **{f.__name__: f for f in functions})


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[Server]:
    """A service with two workers, scenes and its own weights, for tests that do not affect one another."""
    folder = tmp_path_factory.mktemp("server")
    publish(folder / "registry", "1")
    go_live(folder / "registry", "1")
    (folder / "fusion.yaml").write_text(FUSION)
    with serving(
        folder,
        folder / "registry",
        redis_server.url,
        workers=2,
        fusion_file=folder / "fusion.yaml",
        fusion_overrides=True,
    ) as running:
        yield running


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """A registry with version 1 live."""
    folder = tmp_path / "registry"
    publish(folder, "1")
    go_live(folder, "1")
    return folder


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """An empty bucket, which this process and those that it starts find by their environment."""
    with empty_bucket(monkeypatch) as store:
        yield store


@pytest.fixture(params=["folder", "bucket"])
def either_place(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """An empty registry in a folder, and one in a bucket."""
    if request.param == "folder":
        return tmp_path
    request.getfixturevalue("bucket")
    registry = registry_folder(URI, tmp_path)
    registry.mkdir()
    return registry


@pytest.fixture
def either_registry(either_place: Path) -> Path:
    """A registry in a folder, and one in a bucket, with version 1 in the rollout document."""
    go_live(either_place, "1")
    return either_place


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture(scope="module", params=["one", "cluster"])
def either_redis(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a new Redis, and that of a new cluster."""
    if request.param == "one":
        with EmbeddedRedis() as server:
            yield server.url
    else:
        with redis_cluster() as cluster:
            yield cluster.url


@pytest.fixture
def store(redis_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    """An empty Redis, which is emptied again: rows of another test's schema would keep the next service from being
    ready.
    """
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        yield client
        client.flushall()
