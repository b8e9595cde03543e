"""Serves the bundle of a trained run, and compares the service's scores with those of the run."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from running_service import serving

from funnelrank.main import main
from service.sample.embedded_redis import EmbeddedRedis

ROOT = Path(__file__).parents[2]


def run(*arguments: str, redis_url: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "FUNNELRANK_REDIS_URL": redis_url}
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def predicted_against_a_service(folder: Path, capsys: Any, score_chunk: int) -> list[str]:
    """Serve version 1 of `tiny` in `folder`, and return what `predict --against` prints, with four differences."""
    registry = str(folder / "registry")
    predict = ["predict", str(folder / "run"), "--cache", str(folder / "cache"), "--against"]
    with EmbeddedRedis() as redis:
        run("service", "rollout", "tiny", "1", "--registry", registry, redis_url=redis.url)
        run("service", "load", str(folder / "data"), "--registry", registry, redis_url=redis.url)
        with serving(folder, folder / "registry", redis.url, score_chunk=score_chunk) as server:
            assert main([*predict, server.url]) == 0
    lines: list[str] = capsys.readouterr().out.splitlines()
    differences = [float(line.split()[-1]) for line in lines if "largest difference" in line]
    assert len(differences) == 4 and max(differences) < 1e-6
    return lines
