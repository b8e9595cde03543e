"""Tests the container image without a container engine: its recipe is read, and its steps are run."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
RECIPE = (ROOT / "Dockerfile").read_text()


def copied() -> list[str]:
    """The paths that the image copies from the repository."""
    lines = [line.split() for line in RECIPE.splitlines() if line.startswith("COPY ") and "--from" not in line]
    return [source for line in lines for source in line[1:-1]]


def test_all_that_is_copied_exists_and_reaches_the_engine() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied()) == sorted(allowed)
    assert [source for source in copied() if not (ROOT / source).exists()] == []


def test_the_image_is_for_serving_alone_and_runs_as_nobody_special() -> None:
    assert {"models", "export", "sample"} & set(copied()) == set()
    final = RECIPE.rpartition("FROM ")[2]
    assert re.search(r"^USER 10001$", final, re.MULTILINE)
    assert final.index("USER") < final.index("ENTRYPOINT")
    assert "STOPSIGNAL SIGTERM" in final
    assert "HEALTHCHECK" in final


def test_compose_gives_the_service_a_redis_a_registry_and_no_default_token() -> None:
    services = yaml.safe_load((ROOT / "deploy" / "docker-compose.yaml").read_text())["services"]
    assert services["service"]["environment"]["FUNNELRANK_REDIS_URL"] == "redis://redis:6379/0"
    assert services["service"]["environment"]["FUNNELRANK_ADMIN_TOKEN"].startswith("${FUNNELRANK_ADMIN_TOKEN:?")
    assert "registry:/registry" in services["service"]["volumes"]
    assert services["service"]["ports"] == ["127.0.0.1:8000:8000"]


def test_the_unit_file_ends_all_processes_and_waits_for_requests_in_work() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[method-assign,assignment]
    unit.read(ROOT / "deploy" / "funnelrank.service")
    service = unit["Service"]
    assert service["ExecStart"].endswith("/bin/funnelrank serve")
    assert service["KillMode"] == "control-group"
    settings = Settings()
    assert int(service["TimeoutStopSec"]) * 1000 >= settings.drain_ms + settings.shutdown_timeout_ms


@pytest.mark.slow
def test_the_image_steps_give_a_service_that_starts(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    app = tmp_path / "app"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = str(environment / "bin" / "python")
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "-r", str(ROOT / "requirements" / "serve.txt")], check=True
    )
    app.mkdir()
    for source in copied():
        if source != "requirements/serve.txt":
            take = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            take(ROOT / source, app / source)
    clean = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, "-m", "funnelrank", "serve", "--help"], cwd=app, env=clean, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "FUNNELRANK_REDIS_URL" in done.stdout
