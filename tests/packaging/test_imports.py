"""Tests imports.

The imports of a process are determined by importing, those of a package by reading its files.
"""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"funnelrank", "features", "tables", "service", "batch", "models", "export", "loop", "loadtest", "bench"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(",".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def modules_after_importing_all_of(package: str) -> set[str]:
    """Top-level modules in a fresh interpreter that imported every module of one package."""
    command = [sys.executable, "-W", "ignore", "-c", IMPORT_ALL, package]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return set(done.stdout.splitlines()[-1].split(","))


@pytest.mark.parametrize(
    ("package", "strangers"),
    [
        (
            "features",
            {"tables", "service", "models", "export", "loadtest", "torch", "pandas", "fastapi", "redis", "onnxruntime"},
        ),
        ("tables", {"service", "models", "export", "loadtest", "torch", "pandas", "fastapi", "redis", "onnxruntime"}),
        ("service", {"models", "export", "loadtest", "torch", "pandas", "sklearn", "matplotlib", "onnx", "onnxscript"}),
        # optuna imports redis if it is installed. The import rules check that our own code does not import it.
        ("models", {"service", "export", "loadtest", "fastapi", "onnxruntime"}),
    ],
)
def test_a_package_loads_nothing_of_the_other_half(package: str, strangers: set[str]) -> None:
    assert modules_after_importing_all_of(package) & strangers == set()


def imported_by(package: str) -> set[str]:
    """Top-level names of every import statement in a package's files."""
    names: set[str] = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - OURS - set(sys.stdlib_module_names)


def declared(*extras: str) -> set[str]:
    """Normalised names of the distributions that the project declares, in its core and in the named extras."""
    lines = PROJECT["dependencies"] + [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    return {normalised(re.split(r"[\[<>=~! ]", line)[0]) for line in lines}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    ("package", "extras"),
    [
        ("funnelrank", ("train", "loadtest")),
        ("features", ()),
        ("tables", ("objects",)),
        ("service", ("demo", "objects", "kafka", "traces")),
        ("batch", ("ray",)),
        ("models", ("train", "vectors")),
        ("export", ("train",)),
        ("loop", ("train", "loop", "objects", "kafka")),
        ("loadtest", ("loadtest",)),
    ],
)
def test_a_package_imports_only_what_the_project_declares(package: str, extras: tuple[str, ...]) -> None:
    # Packages that fastapi, pydantic, jinja2 and locust depend on, and document as part of their interface.
    declared_names = declared(*extras) | {"starlette", "pydantic-core", "annotated-types", "markupsafe", "gevent"}
    distributions = packages_distributions()
    undeclared = {
        name
        for name in imported_by(package)
        if not {normalised(owner) for owner in distributions.get(name, [name])} & declared_names
    }
    assert undeclared == set()
