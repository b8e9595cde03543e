"""Reads the lines of a rollout document: their versions, their history, and when each was changed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from service.bundle.registry import Target
from service.documents.parts import Entry
from service.rollout.rollout import DEFAULT_LINE, DOCUMENT, Rollout, RolloutLine

_ROLES = ("stable", "canary", "shadow", "first_pass")


@dataclass(frozen=True)
class LinePart:
    """The versions of one line, in a document and in the entries of its history."""

    line: str

    def state_of(self, entry: Entry) -> dict[str, Any]:
        line = self._line_of(entry)
        return {role: line[role] for role in _ROLES if role in line}

    def is_withdrawn(self, entry: Entry) -> bool:
        return bool(self._line_of(entry).get("withdrawn"))

    def withdraw(self, entry: Entry) -> dict[str, Any]:
        if self.line == DEFAULT_LINE:
            return {**entry, "withdrawn": True}
        return {**entry, "lines": {**entry["lines"], self.line: {**self._line_of(entry), "withdrawn": True}}}

    def restore(self, present: Entry, past: Entry) -> dict[str, Any]:
        """The content of `present` with this line's versions of `past`; limits and scenes stay."""
        content = {name: present.get(name) for name in _ROLES}
        lines = dict(present.get("lines", {}))
        # An entry that does not name a role had no version in it.
        versions = dict.fromkeys(_ROLES) | self.state_of(past)
        if self.line == DEFAULT_LINE:
            content |= versions
        else:
            lines[self.line] = {"limits": {}} | lines.get(self.line, {}) | versions
        return content | {"lines": lines, "line": self.line if lines else None}

    def _line_of(self, entry: Entry) -> Mapping[str, Any]:
        if self.line == DEFAULT_LINE:
            return entry
        lines = entry.get("lines")
        line = lines.get(self.line) if isinstance(lines, Mapping) else None
        return line if isinstance(line, Mapping) else {}


def lines_of(rollout: Rollout) -> dict[str, RolloutLine]:
    """Every line of a document by name, the default line first."""
    default = RolloutLine(
        stable=rollout.stable,
        canary=rollout.canary,
        shadow=rollout.shadow,
        first_pass=rollout.first_pass,
        limits=rollout.limits,
    )
    return {DEFAULT_LINE: default, **rollout.lines}


def versions_of(rollout: Rollout) -> dict[str, Target]:
    """The distinct versions that a document names, by `name/version`."""
    return {str(target): target for line in lines_of(rollout).values() for target in targets_of_line(line).values()}


def targets_of_line(line: RolloutLine) -> dict[str, Target]:
    """The versions of a line by role, stable first."""
    named: dict[str, Target | None] = {role: getattr(line, role) for role in _ROLES}
    return {role: target for role, target in named.items() if target is not None}


def earlier_stable(rollout: Rollout, line: str = DEFAULT_LINE) -> list[Target]:
    """Return a line's earlier stable versions that no rollback withdrew, newest first."""
    targets: dict[str, Target] = {}
    for state in DOCUMENT.states(rollout, LinePart(line)):
        try:
            target = Target.model_validate(state.get("stable"))
        except ValidationError:  # an entry that some other program wrote, or one without the line
            continue
        targets.setdefault(str(target), target)
    present = lines_of(rollout).get(line)
    if present is not None:
        targets.pop(str(present.stable), None)
    return list(targets.values())


def changed_at(rollout: Rollout, line: str) -> int:
    """Return the newest revision that changed a line; 0 if the history has none."""
    return next((entry.get("revision", 0) for entry in _changes(rollout, line)), 0)


def restores(rollout: Rollout, line: str) -> int | None:
    """Return the revision that a rollback of a line restored; None if its newest change was no rollback."""
    return next((entry.get("restores") for entry in _changes(rollout, line)), None)


def _changes(rollout: Rollout, line: str) -> Iterator[Mapping[str, Any]]:
    """The revisions that changed a line, newest first, the present one included. Entries without a usable revision are
    left out.
    """
    lines = {name: of_line.model_dump(mode="json") for name, of_line in rollout.lines.items()}
    present = {"revision": rollout.revision, "line": rollout.line, "restores": rollout.restores, "lines": lines}
    for entry, older in zip((present, *rollout.history), (*rollout.history, {}), strict=True):
        if _line_changed(entry, older) == line and isinstance(entry.get("revision"), int):
            yield entry


def _line_changed(entry: Mapping[str, Any], older: Mapping[str, Any]) -> Any:
    """The line that a revision changed. The one that removed the last line names none, as documents without lines do:
    it changed that line, and not the default one.
    """
    before = older.get("lines")
    if not entry.get("line") and not entry.get("lines") and isinstance(before, Mapping) and len(before) == 1:
        return next(iter(before))
    return entry.get("line") or DEFAULT_LINE
