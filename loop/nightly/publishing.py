"""Exports the run of a night once, and gives it its role through the rollout operations."""

import getpass
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from export.bundle import export_run
from export.publish import next_version
from export.sign import signer
from features.files.writing import write_whole
from features.nearest import nearest
from loop.errors import LogError
from loop.nightly.config import PublishSection
from models.recipe import load_recipe
from models.training.outcome import RECIPE_FILE
from service.bundle.registry import Target, folder_of
from service.bundle.verify import BundleRejected, read_manifest
from service.documents import Edit
from service.rollout.lines.view import lines_of, targets_of_line
from service.rollout.rollout import DEFAULT_LINE, ROLLOUT_FILE, Canary, read_rollout
from service.rollout.trials.checks import RegistryChecks, roll_out

_CHOSEN = "version.json"  # the version that the export chose, before it published


def live_version(registry: Path, line: str | None) -> Target | None:
    """The stable version of a line; None if the registry has no rollout document yet. Raises LogError."""
    if not (registry / ROLLOUT_FILE).exists():
        return None
    lines = lines_of(read_rollout(registry))
    chosen = lines.get(line or DEFAULT_LINE)
    if chosen is None:
        raise LogError(f"publish.line: the rollout document has no line '{line}'; it has {', '.join(lines)}")
    return chosen.stable


def check_tasks(registry: Path, line: str | None, tasks: Iterable[str]) -> None:
    """Raise LogError if the live version lacks one of the tasks to compare, before anything is trained."""
    live = live_version(registry, line)
    if live is None:
        return
    known = read_manifest(folder_of(registry, live)).task_names
    for task in tasks:
        if task not in known:
            raise LogError(f"compare.margins: the live version {live} has no task '{task}'{nearest(task, known)}")


def export_once(folder: Path, run: Path, registry: Path, sign_with: Path | None, origin: dict[str, Any]) -> Target:
    """Publish a run unless it is published, also if an earlier export was killed before it could say so.

    `origin` goes into the provenance and identifies the run. The version is chosen and written down first.
    """
    name = load_recipe(run / RECIPE_FILE).name
    chosen = folder / _CHOSEN
    if chosen.exists():
        target = Target(name=name, version=json.loads(chosen.read_bytes())["version"])
        if _is_ours(registry, target, origin):
            return target
    version = next_version(registry, name)
    write_whole(chosen, json.dumps({"version": version}).encode())
    sign = signer(sign_with) if sign_with else None
    export_run(run, registry, version, sign=sign, origin=origin)
    return Target(name=name, version=version)


def _is_ours(registry: Path, target: Target, origin: dict[str, Any]) -> bool:
    try:
        manifest = read_manifest(folder_of(registry, target))
    except BundleRejected:  # it was not published
        return False
    return manifest.provenance.get("nightly") == origin


def give_role(checks: RegistryChecks, target: Target, section: PublishSection, reason: str) -> dict[str, Any]:
    """Make a version canary or shadow; one of an earlier night is replaced. Raises what a rollout raises."""
    line = lines_of(read_rollout(checks.registry))[section.line or DEFAULT_LINE]
    before = targets_of_line(line).get(section.role)
    new: Target = target
    if section.role == "canary":
        assert section.percent is not None
        new = Canary(name=target.name, version=target.version, percent=section.percent)
    changes: dict[str, Any] = {section.role: new}
    if section.line:
        changes["line"] = section.line
    document = roll_out(checks, changes, Edit(getpass.getuser(), reason))
    replaced = str(before) if before is not None and str(before) != str(target) else None
    return {"role": section.role, "percent": section.percent, "revision": document.revision, "replaced": replaced}
