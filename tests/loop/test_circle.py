"""Tests the whole circle with real processes: serve, log, nightly run, canary, promotion, and a better next day."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from circle_world import RECIPE, Day, World
from running_service import Server, serving, wait_until
from small_tables import merged

from export.bundle import export_run
from funnelrank.main import main
from models.recipe import parse_recipe
from models.train import train
from service.bundle.registry import Target
from service.rollout.lines.changes import write_rollout
from service.sample.embedded_redis import EmbeddedRedis


@dataclass
class Circle:
    """A service that is live on its first version, and the folders of its circle."""

    world: World
    folder: Path
    server: Server

    def nightly(self, day: Day, *options: str) -> tuple[int, dict[str, Any]]:
        """Run the night after a day; the last fifth of the day is for the comparison."""
        config = {
            "log": str(self.folder / "log"),
            "recipe": str(self.folder / "recipe.yaml"),
            "registry": str(self.folder / "registry"),
            "work": str(self.folder / "work"),
            "verify": {"share": 0.2},
            "compare": {"margins": {"pctr": 0.03}, "newest_h": day.last_hours(0.2)},
            "publish": {"role": "canary", "percent": 50},
        }
        path = self.folder / "nightly.yaml"
        path.write_text(yaml.safe_dump(merged(config, {"compare.min_impressions": 300})))
        code = main(["nightly", str(path), "--run", "night", *options])
        run = "night-control" if "--control" in options else "night"
        return code, json.loads((self.folder / "work" / run / "report.json").read_text())

    def settle(self) -> None:
        """Wait until every window is closed, and every file of the log is."""
        time.sleep(1.6)
        spool = self.folder / "log" / "spool"
        before = set(spool.glob("events-*.arrows"))
        closing = {"user_id": "0", "item_id": "0", "action": "nothing", "timestamp": int(time.time() * 1000)}
        assert self.server.http.post("/events", json={"events": [closing]}).status_code == 200
        # The last event ends the windows, so its own file must be whole too.
        wait_until(lambda: bool(set(spool.glob("events-*.arrows")) - before))
        wait_until(lambda: not any(path.stat().st_size for path in spool.glob("*.open")))

    def promote(self, version: str) -> None:
        body = {"stable": {"name": "circle", "version": version}, "canary": None}
        assert self.server.put("/models/rollout", body).status_code == 200
        wait_until(lambda: self._version_of("0") == (version, "stable"))

    def _version_of(self, user: str) -> tuple[str, str]:
        model = self.server.http.post("/rank", json={"user_id": user, "candidates": ["1"]}).json()["model"]
        return model["version"], model["role"]

    def wait_for_canary(self, version: str) -> None:
        """Wait until the gate has let a version take traffic."""
        wait_until(lambda: any(self._version_of(str(user)) == (version, "canary") for user in range(20)))


@contextmanager
def circle(folder: Path, world: World, requests: int) -> Iterator[Circle]:
    """Train the first version on a day before the service, of the same size, and serve it."""
    data = world.tables_before(folder / "data", requests)
    recipe = merged(RECIPE, {"data.dir": str(data), "data.split": world.split_before()})
    train(parse_recipe(recipe, "circle"), folder / "first", cache=folder / "cache", reading_steps=0, quiet=True)
    export_run(folder / "first", folder / "registry", version=None)
    write_rollout(folder / "registry", Target(name="circle", version="1"), "test")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "log").mkdir()
    with EmbeddedRedis() as redis, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUNNELRANK_REDIS_URL", redis.url)
        assert main(["load", str(data), "--registry", str(folder / "registry")]) == 0
        log = {"exposure_log": folder / "log", "exposure_roll_ms": 200}
        with serving(folder, folder / "registry", redis.url, **log) as server:
            yield Circle(world, folder, server)


def go_round(folder: Path, world: World, requests: int) -> tuple[float, float]:
    """Go round the circle once; return the mean nDCG against the truth on the first day and on the next."""
    with circle(folder, world, requests) as ring:
        first = world.drive(ring.server.http, requests, "first")
        assert first.versions == {"1 stable": requests}
        ring.settle()
        # The control: a model of shuffled labels is refused, and nothing is published.
        code, report = ring.nightly(first, "--control")
        assert (code, report["outcome"]) == (0, "control refused"), report["reason"]
        assert [path.name for path in (folder / "registry" / "circle").iterdir()] == ["1"]
        # The night. A second run changes nothing.
        for _ in range(2):
            code, report = ring.nightly(first)
            assert (code, report["outcome"]) == (0, "published"), report["reason"]
        steps = {step["name"]: step["result"] for step in report["steps"]}
        assert steps["verify"]["skews"] == {}
        assert steps["join"]["join_rate"] == 1.0
        assert sorted(path.name for path in (folder / "registry" / "circle").iterdir()) == ["1", "2"]
        # Canary, promotion, the next day.
        ring.wait_for_canary("2")
        canary = world.drive(ring.server.http, requests // 10, "canary")
        assert set(canary.versions) == {"1 stable", "2 canary"}
        ring.promote("2")
        second = world.drive(ring.server.http, requests, "second")
        assert second.versions == {"2 stable": requests}
    gain = np.mean(np.array(second.quality) - np.array(first.quality))
    print(
        f"seed {world.seed}: nDCG@10 {np.mean(first.quality):.4f}, the next day {np.mean(second.quality):.4f} "
        f"({gain:+.4f}); nightly {steps['compare']['tasks']}"
    )
    return float(np.mean(first.quality)), float(np.mean(second.quality))


@pytest.mark.slow  # two trainings, a service and thousands of rankings
def test_the_day_after_a_night_is_ranked_better_against_the_truth(tmp_path: Path) -> None:
    first, second = go_round(tmp_path, World(seed=1), 700)
    assert second - first > 0.05


@pytest.mark.full
@pytest.mark.parametrize("seed", range(1, 6))
def test_the_next_day_is_better_where_tastes_moved(tmp_path: Path, seed: int) -> None:
    first, second = go_round(tmp_path, World(seed), 900)
    assert second - first > 0.05


@pytest.mark.full
@pytest.mark.parametrize("seed", range(1, 4))
def test_the_next_day_is_as_good_where_nothing_moved(tmp_path: Path, seed: int) -> None:
    """The gain is not that of a second day as such: the first model had as many impressions."""
    first, second = go_round(tmp_path, World(seed, drifts=False), 900)
    assert abs(second - first) < 0.03
