"""Tests that a version whose tables change on the disk while it is live is not served any more."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_http
import httpx
import numpy as np
import pytest
from large_tables import table_of, with_tables

from service.documents import Edit
from service.errors import NotReady
from service.metrics.metrics import Metrics
from service.rollout.following.follower import Follower
from service.rollout.lines.changes import change_rollout
from service.rollout.rollout import read_rollout
from service.sample.embedded_redis import EmbeddedRedis
from service.settings import Settings
from service.store.opening import open_store

RIGHT = table_of(1.0, 1000).tobytes()
WRONG = table_of(0.5, 1000).tobytes()


@contextlib.contextmanager
def following(registry: Path, url: str) -> Iterator[Follower]:
    """A follower, whose connections are closed within the test's event loop."""
    reader = open_store(url, 20_000)
    follower = Follower(Settings(registry=registry, max_candidates=50), None, reader, Metrics())
    try:
        yield follower
    finally:
        follower.close()
        reader.close()


def published(kit: SimpleNamespace, registry: Path, version: str) -> Path:
    """Publish a version with tables; return their file."""
    return with_tables(kit.publish(registry, version)) / "tables.bin"


def write_over(path: Path, content: bytes, *, hidden: bool = False) -> None:
    """Write into the file that is mapped; `hidden` sets its time of modification back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(content)
    if hidden:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("hidden", [False, True])
async def test_an_earlier_version_takes_the_place_of_a_stable_one(
    registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: object, hidden: bool
) -> None:
    with following(registry, redis_server.url) as follower:
        tables = published(kit, registry, "2")
        kit.go_live(registry, "2")
        await follower.step()
        assert follower.current().bundle.label == "synthetic/2"
        write_over(tables, WRONG, hidden=hidden)
        await follower.step()
        live = follower.current()
        assert live.bundle.label == "synthetic/1"
        assert "tables_changed" in live.instead_of and "tables.bin was changed after it was verified" in live.instead_of
        assert follower.refusals.entries[0].code == "tables_changed"


async def test_the_only_version_ranks_no_more(
    registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: object
) -> None:
    with following(registry, redis_server.url) as follower:
        with_tables(registry / "synthetic" / "1")
        await follower.step()
        assert follower.current().bundle.label == "synthetic/1"
        write_over(registry / "synthetic" / "1" / "tables.bin", WRONG)
        await follower.step()
        with pytest.raises(NotReady, match="tables.bin"):
            follower.current()


async def test_a_changed_canary_is_withdrawn(
    registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: object
) -> None:
    with following(registry, redis_server.url) as follower:
        tables = published(kit, registry, "2")
        change_rollout(registry, {"canary": {"name": "synthetic", "version": "2", "percent": 50}}, Edit("ann"))
        await follower.step()
        assert follower.snapshot.default.canary is not None
        write_over(tables, WRONG)
        await follower.step()
        assert follower.snapshot.default.canary is None and follower.current().bundle.label == "synthetic/1"
        rollout = read_rollout(registry)
        assert rollout.canary is None and "tables_changed" in rollout.history[0]["reason"] + rollout.reason


@pytest.mark.parametrize("act", ["removed", "renamed", "replaced", "written with the same bytes"])
async def test_what_leaves_the_mapped_bytes_as_they_are_is_no_change(
    registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: object, act: str
) -> None:
    with following(registry, redis_server.url) as follower:
        tables = published(kit, registry, "2")
        kit.go_live(registry, "2")
        await follower.step()
        bundle = follower.current().bundle
        if act == "removed":
            tables.unlink()
        elif act == "renamed":
            tables.rename(tables.with_name("old.bin"))
        elif act == "replaced":
            other = tables.with_name("other.bin")
            other.write_bytes(WRONG)
            other.replace(tables)
        else:
            write_over(tables, RIGHT, hidden=True)
        for _ in range(2):
            await follower.step()
        assert follower.current().bundle is bundle
        assert bundle.tables is not None and not bundle.tables.touched
        assert np.array_equal(bundle.tables.values["table"], table_of(1.0, 1000))
        assert not follower.refusals.entries


def test_workers_of_a_shortened_table_are_replaced_and_serve_the_earlier_version(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: object
) -> None:
    """The system ends a process that reads a page behind the end of a mapped file; its successor refuses the file."""
    tables = published(kit, registry, "2")
    kit.go_live(registry, "2")
    request: dict[str, Any] = {"user_id": "7", "candidates": [str(i) for i in range(20)]}
    with kit.serving(tmp_path, registry, redis_server.url, workers=2) as running:
        right = running.http.post("/rank", json=request).json()
        assert right["model"]["version"] == "2"
        os.truncate(tables, 0)

        def by_the_earlier_version() -> bool:
            """Every answer on the way is a refusal, or right: the two versions score alike."""
            try:
                answer = fresh_http.post(f"{running.url}/rank", json=request)
            except httpx.TransportError:  # the worker has ended
                return False
            if answer.status_code != 200:
                return False
            assert answer.json()["ranking"] == right["ranking"]
            return bool(answer.json()["model"]["version"] == "1")

        kit.wait_until(by_the_earlier_version, 20)
