"""Assigns the loaded versions of a worker to the lines of a rollout document, and names the versions to load."""

from dataclasses import dataclass, replace
from typing import Any

from service.bundle.registry import Target
from service.rollout.lines.view import lines_of, targets_of_line
from service.rollout.rollout import Rollout, RolloutLine
from service.rollout.serving import Role, ServingLine, ServingSnapshot


@dataclass(frozen=True)
class MissingVersion:
    """A version that a line names and does not serve yet."""

    line: str
    role: Role
    target: Target


def rearranged(before: ServingSnapshot, rollout: Rollout) -> tuple[ServingSnapshot, list[MissingVersion]]:
    """Assign each line's loaded versions to their roles in a document and drop versions without a role; also return the
    versions that are missing, in the order of the document.

    A stable version stays until its successor is loaded. A line that is new has no versions yet, even if another line
    has loaded them: a version is compared with each line's stable version before it takes that line's traffic.
    """
    lines: dict[str, ServingLine] = {}
    missing: list[MissingVersion] = []
    for name, line in lines_of(rollout).items():
        present = before.lines.get(name) or ServingLine(name)
        label = name if rollout.lines else ""
        lines[name] = _arranged(present, line, label, rollout.revision)
        arranged = {role for role in Role if _serves(lines[name], role, line)}
        missing += [
            MissingVersion(name, Role(role), target)
            for role, target in targets_of_line(line).items()
            if role not in arranged
        ]
    return replace(before, lines=lines, scenes=rollout.scenes), missing


def _arranged(present: ServingLine, line: RolloutLine, label: str, revision: int) -> ServingLine:
    """A line with those of its versions that the document still names."""
    lives: dict[str, Any] = dict.fromkeys(role.value for role in Role)
    if present.stable is not None:
        lives["stable"] = replace(present.stable, line=label)
    for role, target in targets_of_line(line).items():
        live = present.usable(target, Role(role))
        if live is not None:
            lives[role] = replace(live, role=Role(role), revision=revision, instead_of="", line=label)
    return replace(present, **lives, named=line)


def _serves(line: ServingLine, role: Role, named: RolloutLine) -> bool:
    live = line.in_role(role)
    target = targets_of_line(named).get(role.value)
    return live is not None and target is not None and live.bundle.label == str(target)
