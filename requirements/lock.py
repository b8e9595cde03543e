"""Writes the lock files beside it: what pip resolves for the groups of pyproject.toml, one `name==version` per line.

`make lock` runs it. test.txt is resolved first and constrains the others, so that a package has one version in all of
them. Local version parts ("2.13.0+cpu") are cut off, so that the files name what every index has. torch has its own
file: it is installed first and by its exact version alone, because a range would let pip choose the newest build with
all of its GPU libraries.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOCKS = {
    "test": ("demo", "train", "vectors", "loadtest", "loop", "objects", "kafka", "traces", "test"),
    "serve": (),
    "demo": ("demo",),
    "loadtest": ("loadtest",),
    "dev": ("dev",),
    "docs": ("docs",),
}
# A lock that is installed beside another one does not repeat its packages.
BESIDE = {"demo": "serve", "dev": "test"}
# A lock for an environment that does not import the project's packages.
WITHOUT_PROJECT = {"docs"}


def requirements_of(project: dict, name: str) -> list[str]:
    """The project's own dependencies plus those of the extras of a lock."""
    extras = [line for group in LOCKS[name] for line in project["optional-dependencies"][group]]
    return extras if name in WITHOUT_PROJECT else project["dependencies"] + extras


def resolve(requirements: list[str], constraints: Path | None) -> dict[str, str]:
    """Package name -> version, as pip would install `requirements` into an empty environment."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    command += ["--constraint", str(constraints)] if constraints else []
    report = json.loads(subprocess.run([*command, *requirements], check=True, stdout=subprocess.PIPE).stdout)
    packages = (package["metadata"] for package in report["install"])
    return {metadata["name"].lower(): metadata["version"].split("+")[0] for metadata in packages}


def write_lock(path: Path, versions: dict[str, str]) -> None:
    """One pinned package per line, sorted."""
    lines = [f"{name}=={version}" for name, version in sorted(versions.items())]
    path.write_text("# Written by `make lock`; change pyproject.toml instead.\n" + "\n".join(lines) + "\n")
    print(f"{path.name}: {len(versions)} packages")


def main() -> None:
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    resolved: dict[str, dict[str, str]] = {}
    for name in LOCKS:
        constraints = HERE / "test.txt" if name != "test" else None
        resolved[name] = resolve(requirements_of(project, name), constraints)
        present = {"torch", *resolved.get(BESIDE.get(name, ""), {})}
        write_lock(
            HERE / f"{name}.txt",
            {package: version for package, version in resolved[name].items() if package not in present},
        )
    write_lock(HERE / "torch.txt", {"torch": resolved["test"]["torch"]})


if __name__ == "__main__":
    main()
