"""Tests that a client generated from `/openapi.json` imports and ranks, so that users' generators work."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running_service import serving
from synthetic_bundle import go_live, publish

from service.sample.embedded_redis import EmbeddedRedis

pytestmark = pytest.mark.tools


def test_a_generated_client_makes_a_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "registry", "1")
    go_live(tmp_path / "registry", "1")
    with EmbeddedRedis() as redis, serving(tmp_path, tmp_path / "registry", redis.url) as server:
        # The generator warns of each part that it leaves out. It formats with ruff, which it finds on the path.
        (tmp_path / "openapi.json").write_text(server.http.get("/openapi.json").text)
        generate = [
            sys.executable,
            "-m",
            "openapi_python_client",
            "generate",
            "--path",
            "openapi.json",
            "--meta",
            "none",
        ]
        done = subprocess.run(
            [*generate, "--meta", "none", "--output-path", "generated_client", "--fail-on-warning"],
            cwd=tmp_path,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        # Rank with it, and read an error.
        monkeypatch.syspath_prepend(tmp_path)
        client_module: Any = importlib.import_module("generated_client")
        models: Any = importlib.import_module("generated_client.models")
        rank: Any = importlib.import_module("generated_client.api.rank.rank")
        with client_module.Client(base_url=server.url) as client:
            request = models.RankRequest(user_id="712", candidates=["1", models.Candidate(item_id="2")], top_k=1)
            ranking = rank.sync(client=client, body=request)
            assert isinstance(ranking, models.RankResponse)
            assert [(item.item_id, item.rank) for item in ranking.ranking] in ([("1", 1)], [("2", 1)])
            assert ranking.model["name"] == "synthetic"
            problem = rank.sync(client=client, body=models.RankRequest(user_id="712", candidates=[]))
            assert isinstance(problem, models.Problem)
            assert problem.code == "invalid_request"
            assert json.loads(rank.sync_detailed(client=client, body=request).content)["coverage"]["requested"] == 2
