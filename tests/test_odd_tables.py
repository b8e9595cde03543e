"""Tests the whole path with odd tables: training, export, load, ranking, and the service's scores against the run's."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from odd_tables import WORLDS, Tables, flat
from running_service import serving
from small_tables import RECIPE, merged

from export.bundle import export_run
from funnelrank.main import main
from models.recipe import parse_recipe
from models.train import train
from service.sample.embedded_redis import EmbeddedRedis

QUICK = {"training.epochs": 1, "training.evaluations_per_epoch": 1, "extra_evaluations": []}
# A CSV has no types, so only the worlds with odd texts, numbers and lists are other ones there.
IN_CSV = ("strange_texts", "many_numbers", "odd_lists")
CASES = [*((name, "parquet") for name in WORLDS), *((name, "csv") for name in IN_CSV)]


def written(tables: Tables, folder: Path, form: str) -> Path:
    folder.mkdir()
    for name, table in tables.items():
        if form == "parquet":
            pq.write_table(table, folder / f"{name}.parquet")
        else:
            pa.csv.write_csv(flat(table), folder / f"{name}.csv")
    return folder


# Each case trains, starts a Redis and a service, and ranks every impression of the test part: about 5 s.
@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_service_scores_odd_tables_as_training_did(
    name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = WORLDS[name]()
    data = written(world.tables, tmp_path / "data", form)
    recipe = parse_recipe(merged(RECIPE, {"data.dir": str(data)} | QUICK | world.changes), "the test")
    train(recipe, tmp_path / "run", cache=tmp_path / "cache", reading_steps=0, quiet=True)
    registry = tmp_path / "registry"
    export_run(tmp_path / "run", registry, version=None)
    shown = world.tables["impressions"]
    candidates = list(dict.fromkeys(str(item) for item in shown["item_id"].to_pylist()))
    request: dict[str, Any] = {
        "user_id": str(shown["user_id"][0].as_py()),
        "candidates": candidates,
        "context": {"tab": None, "battery": None},
    }
    with EmbeddedRedis() as redis:
        monkeypatch.setitem(os.environ, "FUNNELRANK_REDIS_URL", redis.url)
        assert main(["rollout", "tiny", "1", "--registry", str(registry)]) == 0
        assert main(["load", str(data), "--registry", str(registry)]) == 0
        with serving(tmp_path, registry, redis.url) as server:
            answer = server.http.post("/rank", json=request)
            assert answer.status_code == 200, answer.text
            assert answer.json()["degraded"] == world.degraded
            assert sorted(entry["item_id"] for entry in answer.json()["ranking"]) == sorted(candidates)
            capsys.readouterr()
            predict = ["predict", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"), "--against", server.url]
            assert main(predict) == 0
    lines = capsys.readouterr().out.splitlines()
    largest = [float(line.split()[-1]) for line in lines if "largest difference" in line]
    assert len(largest) == 4
    assert max(largest) < 1e-6
