"""Carries out a Dockerfile's steps in root folders, without a container engine. Needs root, for chroot."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"


@dataclass
class Stage:
    """A stage of a Dockerfile: its root folder, and what its steps have set so far."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0"
    entry: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    def command(self, arguments: list[str]) -> list[str]:
        """The command that runs a program inside: in the stage's folder, as its user, with its environment alone."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        inside = f"cd {shlex.quote(self.folder)} && exec {shlex.join(arguments)}"
        changed = ["chroot", f"--userspec={self.user}:{self.user}", str(self.root)]
        return [*changed, "/usr/bin/env", "-i", *variables, "/bin/sh", "-c", inside]


def steps(path: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with their texts; continued lines are joined, comments left out."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(instruction, text) for instruction, _, text in (line.partition(" ") for line in joined)]


def built(path: Path, base: Path, folder: Path, variables: dict[str, str]) -> Stage:
    """Build the stages of a Dockerfile, each from a copy of the root `base`, and return the last one.

    `variables` are set for RUN alone. Raises ValueError for an instruction that is not known here.
    """
    stages: dict[str, Stage] = {}
    for instruction, text in steps(path):
        if instruction == "FROM":
            name = text.partition(" AS ")[2] or "last"
            subprocess.run(["cp", "-a", str(base), str(folder / name)], check=True)
            stages[name] = Stage(
                folder / name, {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"}
            )
            stage = stages[name]
        elif instruction == "RUN":
            command = Stage(stage.root, stage.environment | variables, stage.folder, stage.user)
            subprocess.run(command.command(["/bin/sh", "-ec", text]), check=True)
        elif instruction == "COPY":
            _copy(path.parent, stages, stage, text)
        elif instruction == "ENV":
            for name, value in (pair.split("=", 1) for pair in shlex.split(text)):
                stage.environment[name] = value.replace("$PATH", stage.environment["PATH"])
        elif instruction == "WORKDIR":
            stage.folder = text
            (stage.root / text.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif instruction == "USER":
            stage.user = text
        elif instruction == "ENTRYPOINT":
            stage.entry = json.loads(text)
        elif instruction == "CMD":
            stage.arguments = json.loads(text)
        elif instruction not in {"VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK"}:
            raise ValueError(f"{path}: the instruction {instruction} is not known here")
    return stage


def _copy(context: Path, stages: dict[str, Stage], stage: Stage, text: str) -> None:
    """COPY, with or without --from; a folder's content goes into the folder that is named."""
    words = text.split()
    source_root = context
    if words[0].startswith("--from="):
        source_root = stages[words.pop(0).removeprefix("--from=")].root
    *sources, target = words
    for source in sources:
        present = source_root / source.lstrip("/")
        into = stage.root / os.path.join(stage.folder, target).lstrip("/")
        if present.is_dir():
            shutil.copytree(present, into, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            into = into / present.name if target.endswith("/") else into
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(present, into)


@contextmanager
def mounted(root: Path, folders: dict[Path, str]) -> Iterator[None]:
    """Mount /proc and the folders of this machine at their places in a root, and unmount them at the end."""
    with ExitStack() as stack:
        mounts = [["-t", "proc", "proc", str(root / "proc")]]
        for folder, place in folders.items():
            inside = root / place.lstrip("/")
            inside.mkdir(parents=True, exist_ok=True)
            mounts.append(["--bind", str(folder), str(inside)])
        for mount in mounts:
            subprocess.run(["mount", *mount], check=True)
            stack.callback(subprocess.run, ["umount", "--lazy", mount[-1]], check=True)
        yield
