"""Tests the wheel: its packages, and that every command prints its help outside the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from funnelrank import __version__
from funnelrank.main import COMMANDS

ROOT = Path(__file__).parents[2]
PACKAGES = ("funnelrank", "features", "tables", "service", "batch", "models", "export", "loop", "loadtest")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the tree, because a build writes into its source."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source / name)
    for name in (*PACKAGES, "bench", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(out), str(source)], check=True)
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_our_packages_with_their_data_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"funnelrank-{__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {*PACKAGES, f"funnelrank-{__version__}.dist-info"}
    data = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in SUFFIXES]
    assert [str(path.relative_to(ROOT)) for path in data if str(path.relative_to(ROOT)) not in names] == []
    assert [package for package in PACKAGES if f"{package}/py.typed" not in names] == []


SUFFIXES = (".py", ".yaml", ".html", ".json", ".typed", ".js", ".css", ".svg")


@pytest.mark.slow
def test_every_command_says_its_help_outside_the_checkout_with_serving_dependencies(
    wheel: Path, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "environment")], check=True)
    programs = tmp_path / "environment" / "bin"
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "-r", str(ROOT / "requirements" / "serve.txt")], check=True)
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    clean = {"PATH": os.environ["PATH"]}
    for words in ([], *([name] for name in COMMANDS)):
        done = subprocess.run(
            [str(programs / "funnelrank"), *words, "--help"], cwd=tmp_path, env=clean, capture_output=True, text=True
        )
        assert done.returncode == 0, (words, done.stderr)
        assert "example:" in done.stdout
    version = subprocess.run(
        [str(programs / "funnelrank"), "--version"], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert __version__ in version.stdout
    refused = subprocess.run(
        [str(programs / "funnelrank"), "train", "x.yaml"], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert "pip install 'funnelrank[train]'" in refused.stderr
