"""Tests the lock files: exact, complete, without addresses; those for serving need nothing of the offline half."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = {
    "serve": (),
    "demo": ("demo",),
    "loadtest": ("loadtest",),
    "docs": ("docs",),
    "test": ("demo", "train", "vectors", "loadtest", "loop", "test"),
}
# Installed beside test.txt.
BESIDE_TEST = {"dev": ("dev",)}


def pins(*names: str) -> dict[str, str]:
    """Normalised package name -> version, of one or more lock files."""
    lines = [
        line
        for name in names
        for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    return {normalised(name): version for name, version in (line.split("==") for line in lines)}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("lock", [*LOCKS, *BESIDE_TEST, "torch"])
def test_every_line_is_a_name_and_an_exact_version(lock: str) -> None:
    lines = (ROOT / "requirements" / f"{lock}.txt").read_text().splitlines()[1:]
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==([0-9]+!)?[0-9][0-9a-z.]*", line)] == []


@pytest.mark.parametrize(("lock", "extras"), (LOCKS | BESIDE_TEST).items())
def test_a_lock_satisfies_what_the_project_declares(lock: str, extras: tuple[str, ...]) -> None:
    beside = "test" if lock in BESIDE_TEST else "serve"
    locked = pins(beside, "torch", lock)
    required = [
        Requirement(line)
        for line in PROJECT["dependencies"]
        + [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    ]
    unmet = [str(wish) for wish in required if not wish.specifier.contains(locked.get(normalised(wish.name), "0"))]
    assert unmet == [], "run `make lock`"


@pytest.mark.parametrize("lock", ["serve", "demo", "loadtest"])
def test_a_package_has_one_version_in_all_locks(lock: str) -> None:
    all_pins = pins("test")
    assert {name: version for name, version in pins(lock).items() if all_pins.get(name) != version} == {}


def test_the_docs_site_is_built_with_versions_that_fit_the_tests() -> None:
    # It has packages of its own, and `make test-tools` installs it beside the others.
    all_pins = pins("test")
    assert {name: v for name, v in pins("docs").items() if all_pins.get(name, v) != v} == {}


def test_serving_installs_nothing_of_the_offline_half() -> None:
    assert (
        pins("serve", "demo").keys()
        & {"torch", "pandas", "scikit-learn", "matplotlib", "onnx", "onnxscript", "locust", "pytest"}
        == set()
    )
