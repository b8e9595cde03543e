"""Tests the page on one's own data: its recipe and commands lead from four CSVs to a ranking, as written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from child_process import child
from running_service import ROOM_IN_ENVIRONMENT

from service.sample.calls import wait_until_ready
from service.sample.embedded_redis import EmbeddedRedis, free_port
from tools.hotels import write_hotels

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "your-own-data.md"
REDIS = "redis://127.0.0.1:6379/0"
SERVICE = "127.0.0.1:8000"


def blocks(kind: str) -> list[str]:
    """The fenced blocks of one kind in the walk, in the page's order."""
    walk = PAGE.read_text().partition("\n## From CSVs to a ranking\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{re.escape(kind)}\n(.*?)^```$", walk, re.MULTILINE | re.DOTALL)


def columns_on_the_page() -> dict[str, str]:
    return dict(line.split() for line in blocks("text")[0].splitlines())


@pytest.mark.slow
def test_the_page_leads_from_four_csvs_to_a_ranking(tmp_path: Path) -> None:
    data = tmp_path / "data" / "hotels"
    write_hotels(data)
    for name, columns in columns_on_the_page().items():
        assert (data / name).read_text(encoding="utf-8-sig").splitlines()[0] == columns
    (recipe,) = blocks('yaml title="hotels.yaml"')
    (tmp_path / "hotels.yaml").write_text(recipe)
    prepare, serve, ask = blocks("sh")

    # The program of this tree, where an installation would put it on the PATH.
    program = tmp_path / "bin" / "funnelrank"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m funnelrank "$@"\n')
    program.chmod(0o755)
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FUNNELRANK_")}
    environment |= {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "FUNNELRANK_PORT": str(port),
    } | ROOM_IN_ENVIRONMENT

    def run(commands: str, redis_url: str) -> str:
        text = commands.replace(REDIS, redis_url).replace(SERVICE, f"127.0.0.1:{port}")
        done = subprocess.run(
            ["sh", "-ec", text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with EmbeddedRedis() as redis:
        output = run(prepare, redis.url)
        assert "warning: context" not in output
        with (tmp_path / "serve.log").open("wb") as log:
            own = environment | {"FUNNELRANK_REDIS_URL": redis.url}
            service = child(["sh", "-ec", f"exec {serve}"], cwd=tmp_path, env=own, stdout=log, stderr=log)
            with service as process:
                wait_until_ready(process, f"http://127.0.0.1:{port}/readyz", 60)
                answer = run(ask, redis.url)

    ranked, end = json.JSONDecoder().raw_decode(answer)
    assert ranked["model"] == {"name": "hotels", "version": "1", "role": "stable"}
    assert ranked["degraded"] == []
    assert sorted(entry["item_id"] for entry in ranked["ranking"]) == ["h-01", "h-02", "h-03"]
    scores = [entry["score"] for entry in ranked["ranking"]]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 3
    replay = answer[end:]
    assert "degraded" not in replay
    largest = {name: float(value) for name, value in re.findall(r"^(\w+) +largest difference (\S+)$", replay, re.M)}
    assert largest.keys() == {"pctr", "pcvr", "pctcvr"}
    assert max(largest.values()) < 1e-5
