"""Tests the how-to pages: their commands work in order on a served sample, and their settings are valid."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from running_service import ROOT, serving, wait_until

from loop.nightly.config import read_config
from service.sample.embedded_redis import EmbeddedRedis
from tests.console.served import MODEL, SAMPLE, Served, roles_of, sample_service

PAGES = ROOT / "docs" / "how-to"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = ("roll-back", "try-other-weights", "debug-one-ranking", "move-redis", "grow", "upgrade")


@pytest.fixture(scope="module")
def redis() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as running:
        yield running


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, redis: EmbeddedRedis) -> Iterator[Served]:
    """The sample, where versions, weights and rules have changed before, so that there is something to go back to."""
    with sample_service(tmp_path_factory.mktemp("how-to"), redis) as running:
        running.change("PUT", "/models/rollout", {"stable": {"name": MODEL, "version": "4"}, "reason": "newer"})
        document = yaml.safe_load((SAMPLE / "fusion.yaml").read_text())
        del document["revision"]
        document["profiles"]["default"]["weights"]["pctr"] = 2.0
        running.change("PUT", "/fusion", document)
        for items in (["1"], ["2"]):
            running.change("PUT", "/rules", {"rules": {"default": [{"type": "block", "item_ids": items}]}})
        yield running


def blocks(page: str) -> list[str]:
    return BLOCK.findall((PAGES / f"{page}.md").read_text())


def revisions(served: Served) -> set[tuple[int, int]]:
    """The revisions of weights and rules that the workers use. They are one once every worker has followed."""
    return {(worker["fusion_revision"], worker["rules_revision"]) for worker in served.get("/models")["workers"]}


def run(page: str, folder: Path, served: Served, redis: EmbeddedRedis, **more: str) -> str:
    """Run the commands of a page one after another in one shell, as a reader does; return what they print."""
    wait_until(lambda: len(revisions(served)) == 1)
    programs = folder / "bin"
    programs.mkdir()
    program = programs / "funnelrank"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m funnelrank "$@"\n')
    program.chmod(0o755)
    (folder / "sample").symlink_to(SAMPLE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FUNNELRANK_")}
    environment |= {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "URL": served.server.url,
        "TOKEN": served.keys["operate"],
        "FUNNELRANK_REGISTRY": str(served.registry),
        "FUNNELRANK_REDIS_URL": redis.url,
    }
    script = "set -eu -o pipefail\n" + "\n".join(blocks(page))
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment | more, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    wait_until(lambda: len(revisions(served)) == 1)
    # What a comment promises is printed.
    for promised in re.findall(r"# prints (\S+)", script):
        assert promised in done.stdout
    return done.stdout


def test_every_page_with_commands_is_run() -> None:
    assert {page.stem for page in PAGES.glob("*.md") if blocks(page.stem)} == set(RUN)


@pytest.mark.slow
def test_rolling_back(tmp_path: Path, served: Served, redis: EmbeddedRedis) -> None:
    assert roles_of(served, "live") == ["4", "4"]
    rules = served.get("/rules")["revision"]
    fusion = served.get("/fusion")["revision"]
    run("roll-back", tmp_path, served, redis, GOOD="1")
    assert served.get("/models")["rollout"]["stable"]["version"] == "2"
    assert served.get("/models")["rollout"]["canary"] is None
    wait_until(lambda: roles_of(served, "live") == ["2", "2"])
    assert served.get("/rules")["revision"] > rules
    assert served.get("/fusion")["revision"] > fusion


@pytest.mark.slow
def test_an_experiment_with_weights(tmp_path: Path, served: Served, redis: EmbeddedRedis) -> None:
    served.rank(users=8)
    run("try-other-weights", tmp_path, served, redis)
    document = served.get("/fusion")
    assert document["restores"] is not None
    assert document["scenes"]["home"] == "home"


@pytest.mark.slow
def test_one_ranking_explained(tmp_path: Path, served: Served, redis: EmbeddedRedis) -> None:
    printed = run("debug-one-ranking", tmp_path, served, redis)
    assert re.search(r"^\d+\n\d+\n\d+$", printed, re.MULTILINE), "three places of the item"


@pytest.mark.slow
def test_another_redis(tmp_path: Path, served: Served, redis: EmbeddedRedis) -> None:
    with EmbeddedRedis() as other:
        run("move-redis", tmp_path, served, redis, NEW=other.url)


@pytest.mark.slow
def test_growth(tmp_path: Path, served: Served, redis: EmbeddedRedis) -> None:
    assert "store" in run("grow", tmp_path, served, redis)


@pytest.mark.slow
def test_an_upgrade(tmp_path: Path, served: Served, redis: EmbeddedRedis) -> None:
    settings = {"fusion_file": SAMPLE / "fusion.yaml"}
    with serving(tmp_path, served.registry, redis.url, **settings) as newer:
        run("upgrade", tmp_path, served, redis, NEW_URL=newer.url)


def test_the_nightly_settings_are_valid(tmp_path: Path) -> None:
    (settings,) = re.findall(r"^```yaml\n(.*?)^```$", (PAGES / "retrain-every-night.md").read_text(), re.M | re.S)
    path = tmp_path / "nightly.yaml"
    path.write_text(settings)
    config = read_config(path)
    assert config.publish.role == "canary"
