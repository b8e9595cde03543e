"""Tests two hosts that change the rollout and the fusion document of one registry at once: nothing is lost or mixed."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_http
import httpx
import pytest
from copied_registry import published
from object_store import URI
from running_service import Server, wait_until
from synthetic_bundle import go_live

from service.addresses.registry_address import registry_folder
from service.sample.embedded_redis import EmbeddedRedis

CANDIDATES = ["i1", "i2"]
CHANGES = 6  # of each document on each host
BIASES = {"1": 0.0, "2": 0.4, "3": 0.9}
OPERATOR = {"Authorization": "Bearer secret"}


@pytest.fixture(params=["folder", "bucket"])
def hosts(
    tmp_path: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, request: pytest.FixtureRequest
) -> Iterator[tuple[Server, Server]]:
    """Two services over one registry; in a bucket, each has its own copy."""
    registry = tmp_path / "registry"
    settings: list[dict[str, Any]] = [{}, {}]
    address: Any = registry
    if request.param == "bucket":
        request.getfixturevalue("bucket")
        settings = [{"registry_cache": tmp_path / name} for name in ("one", "other")]
        registry = registry_folder(URI, tmp_path / "operator")
        registry.mkdir(parents=True)
        address = URI
    for version, bias in BIASES.items():
        published(registry, version, bias=bias)
    go_live(registry, "1")
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(kit.serving(tmp_path, address, redis_server.url, allow_degraded_ready=True, **own))
            for own in settings
        )
        yield one, other


def weights_of(host: int, number: int) -> dict[str, float]:
    """The weights of one change: they belong together, so that weights of two changes do not fit each other."""
    pctr = 1.0 + host * 100 + number
    return {"pctr": pctr, "pctcvr": 3 * pctr}


def changed(put: Callable[[], httpx.Response]) -> int:
    """Change a document; again from its new state if another host was faster. Returns the new revision."""
    for _ in range(200):
        answer = put()
        if answer.status_code == 200:
            return int(answer.json()["revision"])
        assert answer.status_code == 409, answer.text
    raise AssertionError("the other host was always faster")


def check_none_is_mixed(rankings: list[dict[str, Any]], weights: dict[int, dict[str, float]]) -> None:
    """The scores are those of the version, summed with the weights of the revision."""
    of_version: dict[str, set[tuple[float, ...]]] = {}
    for answer in rankings:
        by_id = {item["item_id"]: item for item in answer["ranking"]}
        predictions = tuple(by_id[i]["predictions"][task] for i in CANDIDATES for task in ("pctr", "pctcvr"))
        of_version.setdefault(answer["model"]["version"], set()).add(predictions)
        used = weights.get(answer["fusion"]["revision"])
        for item in by_id.values():
            if used is not None:
                expected = sum(used[task] * item["predictions"][task] for task in used)
                assert item["score"] == pytest.approx(expected, rel=1e-5)
    assert all(len(seen) == 1 for seen in of_version.values()), of_version
    assert len(of_version) > 1
    assert len({answer["fusion"]["revision"] for answer in rankings} & weights.keys()) > 1


@pytest.mark.slow  # two services, which two hosts change at once
def test_hosts_that_change_both_documents_at_once_lose_no_change_and_mix_none(hosts: tuple[Server, Server]) -> None:
    """Each ranking has the scores of its version, and the weights of its revision of the fusion document."""
    ended = threading.Event()
    rankings: list[dict[str, Any]] = []

    def change_fusion(host: int) -> dict[int, dict[str, float]]:
        """Write own profiles beside those of the other host; returns the default profile's weights by revision."""
        written = {}
        with fresh_http.client(base_url=hosts[host].url, headers=OPERATOR) as http:
            for number in range(CHANGES):

                def put(number: int = number) -> httpx.Response:
                    before = http.get("/fusion").json()
                    profiles = before["profiles"] | {
                        "default": {"kind": "weighted_sum", "weights": weights_of(host, number)},
                        f"of-{host}": {"kind": "weighted_sum", "weights": weights_of(host, number)},
                    }
                    scenes = before["scenes"] | {f"scene-{host}": f"of-{host}"}
                    body = {"profiles": profiles, "scenes": scenes, "author": f"host-{host}"}
                    return http.put("/fusion", json=body | {"revision": before["revision"]})

                revision = changed(put)
                assert revision not in written
                written[revision] = weights_of(host, number)
        return written

    def change_rollout(host: int) -> list[int]:
        """Let versions take turns as the stable one."""
        with fresh_http.client(base_url=hosts[host].url, headers=OPERATOR) as http:

            def put(version: str) -> httpx.Response:
                revision = http.get("/models").json()["rollout"]["revision"]
                stable = {"name": "synthetic", "version": version}
                body = {"stable": stable, "author": f"host-{host}", "revision": revision}
                return http.put("/models/rollout", json=body)

            versions = [str(1 + (host + number) % len(BIASES)) for number in range(CHANGES)]
            return [changed(partial(put, version)) for version in versions]

    def rank(host: int) -> None:
        with fresh_http.client(base_url=hosts[host].url) as http:
            while not ended.is_set():
                answer = http.post("/rank", json={"user_id": "712", "candidates": CANDIDATES})
                assert answer.status_code == 200, answer.text
                rankings.append(answer.json())

    with ThreadPoolExecutor(6) as pool:
        ranked = [pool.submit(rank, host) for host in (0, 1)]
        try:
            fused = [pool.submit(change_fusion, host) for host in (0, 1)]
            rolled = [pool.submit(change_rollout, host) for host in (0, 1)]
            weights = fused[0].result(120) | fused[1].result(120)
            revisions = sorted(revision for change in rolled for revision in change.result(120))
        finally:
            ended.set()
        for each in ranked:
            each.result(30)

    # No change is lost: each has a revision of its own, and both hosts' profiles stand in the last state.
    assert len(weights) == 2 * CHANGES
    assert sorted(weights) == list(range(min(weights), min(weights) + 2 * CHANGES))
    assert revisions == list(range(revisions[0], revisions[0] + 2 * CHANGES))
    for server in hosts:
        wait_until(lambda server=server: server.http.get("/fusion").json()["revision"] == max(weights))  # type: ignore[misc]
        last = server.http.get("/fusion").json()
        assert {f"of-{host}": last["profiles"][f"of-{host}"]["weights"] for host in (0, 1)} == {
            f"of-{host}": weights_of(host, CHANGES - 1) for host in (0, 1)
        }
        assert last["profiles"]["default"]["weights"] == weights[max(weights)]
        assert {"scene-0", "scene-1"} <= last["scenes"].keys()

    check_none_is_mixed(rankings, weights)
