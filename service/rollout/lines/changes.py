"""Changes the rollout document: one line at a time, and which line a scene uses.

A change names the fields to change: other fields keep their value, and null removes a field.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from service.bundle.registry import Target
from service.documents import Edit
from service.errors import Conflict, invalid
from service.files import Attempt
from service.rollout.lines.view import LinePart, changed_at, lines_of
from service.rollout.rollout import DEFAULT_LINE, DOCUMENT, MOST_LINES, MOST_SCENES, Limits, Rollout, RolloutLine


def write_rollout(registry: Path, stable: Target, author: str, expected_revision: int | None = None) -> Rollout:
    """Make `stable` live and keep the rest of the document. Raises what `change_rollout` raises."""
    return change_rollout(registry, {"stable": stable}, Edit(author, expected_revision=expected_revision))


def change_rollout(
    registry: Path,
    changes: Mapping[str, Any],
    edit: Edit,
    *,
    withdraws_since: int | None = None,
    check: Callable[[Rollout], None] | None = None,
    attempt: Attempt | None = None,
) -> Rollout:
    """Change those of `stable`, `canary`, `shadow`, `first_pass`, `limits` and `scenes` that are given; all but the
    last of `line`.

    `withdraws_since` marks the replaced versions, so that a rollback skips them; it is the revision at which they were
    read. `check` gets the new document and raises if it must not be written. Raises Conflict if the document is no
    longer at the expected revision, or if the line was changed after `withdraws_since`; InvalidRequest with the field
    if no stable version is given or known, or a line does not exist; OSError if the document cannot be written.
    """
    line = changes.get("line") or DEFAULT_LINE

    def content_after(before: Rollout | None) -> dict[str, Any]:
        if withdraws_since is not None and before is not None:
            refuse_changed(before, line, withdraws_since)
        return _changed(before, line, changes)

    return DOCUMENT.change(
        registry,
        content_after,
        edit,
        withdraws=LinePart(line) if withdraws_since is not None else None,
        check=check,
        attempt=attempt,
    )


def roll_back(
    registry: Path,
    edit: Edit,
    *,
    line: str | None = None,
    to: int | None = None,
    check: Callable[[Rollout], None] | None = None,
    attempt: Attempt | None = None,
) -> Rollout:
    """Restore a line's previous versions, or those of revision `to`; other lines, limits and scenes stay.

    Raises NothingEarlier (a Conflict) if the line has no earlier state; otherwise what `change_rollout` raises.
    """
    if line is not None and line != DEFAULT_LINE:
        present = DOCUMENT.read_last_good(registry)
        if present is None or not any(LinePart(line).state_of(entry) for entry in (_raw(present), *present.history)):
            raise invalid("line", f"there is no line '{line}', and the history has none")
    return DOCUMENT.roll_back(
        registry,
        edit,
        to=to,
        part=LinePart(line or DEFAULT_LINE),
        check=check,
        attempt=attempt,
    )


def _raw(rollout: Rollout) -> dict[str, Any]:
    return rollout.model_dump(mode="json", exclude={"history"})


def refuse_changed(rollout: Rollout, line: str, since: int) -> None:
    """Raise Conflict if a line was changed after the revision `since`."""
    changed = changed_at(rollout, line)
    if changed > since:
        of_line = "the rollout document" if not rollout.lines else f"the line '{line}'"
        raise Conflict(f"{of_line} is at revision {changed}, not {since}")


def _changed(before: Rollout | None, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content after the changes of a line. Raises InvalidRequest."""
    present = lines_of(before) if before is not None else {}
    lines = dict(present)
    # Remove the line, or change it.
    if name != DEFAULT_LINE and "stable" in changes and changes["stable"] is None:
        _known(name, present, "line")
        del lines[name]
    elif name in present or changes.get("stable") is not None or not present:
        lines[name] = _changed_line(present.get(name), changes)
    else:
        _known(name, present, "line")
    if DEFAULT_LINE not in lines:
        raise invalid("line", f"there is no default line yet; make a version live without naming a line, then '{name}'")
    if len(lines) > MOST_LINES + 1:
        raise invalid("line", f"a document has at most {MOST_LINES} lines beside the default one")

    scenes = _changed_scenes(before, lines, changes.get("scenes") or {})
    default = lines.pop(DEFAULT_LINE)
    return {
        "stable": default.stable,
        "canary": default.canary,
        "shadow": default.shadow,
        "first_pass": default.first_pass,
        "limits": default.limits,
        "lines": lines,
        "scenes": scenes,
        "line": name if lines else None,
    }


def _changed_line(before: RolloutLine | None, changes: Mapping[str, Any]) -> RolloutLine:
    """Return a line after the changes. A version that becomes stable has no other role any more."""
    stable = changes.get("stable") or (before.stable if before else None)
    if stable is None:
        raise invalid("stable", "there is no rollout document yet, so a stable version is needed")
    canary = changes.get("canary", before.canary if before else None)
    shadow = changes.get("shadow", before.shadow if before else None)
    first_pass = changes.get("first_pass", before.first_pass if before else None)
    limits = before.limits if before else Limits()
    changed_limits: Limits | None = changes.get("limits")
    if changed_limits is not None:
        limits = Limits(**limits.model_dump() | changed_limits.model_dump(exclude_unset=True))
    fields: dict[str, Any] = {
        "stable": stable,
        "canary": None if canary is None or _same_version(canary, stable) else canary,
        "shadow": None if shadow is None or _same_version(shadow, stable) else shadow,
        "first_pass": None if first_pass is None or _same_version(first_pass, stable) else first_pass,
        "limits": limits,
    }
    # Fields of a newer program stay.
    return before.model_copy(update=fields) if before is not None else RolloutLine(**fields)


def _changed_scenes(
    before: Rollout | None, lines: Mapping[str, RolloutLine], changes: Mapping[str, str | None]
) -> dict[str, str]:
    """Return the line of each scene after the changes; null and the default line remove a scene."""
    scenes = dict(before.scenes) if before is not None else {}
    for scene, name in changes.items():
        scenes.pop(scene, None)
        if name is None or name == DEFAULT_LINE:
            continue
        _known(name, lines, f"scenes.{scene}")
        scenes[scene] = name
    for scene, name in scenes.items():
        if name not in lines:
            message = f"the scene uses the line '{name}', which would be removed; name another line or null"
            raise invalid(f"scenes.{scene}", message)
    if len(scenes) > MOST_SCENES:
        raise invalid("scenes", f"at most {MOST_SCENES} scenes can use a line beside the default one")
    return scenes


def _known(name: str, lines: Mapping[str, RolloutLine], field: str) -> None:
    """Raise InvalidRequest if there is no such line."""
    if name not in lines:
        more = "; a new line needs a stable version" if field == "line" else ""
        raise invalid(field, f"there is no line '{name}' ({', '.join(lines)}){more}")


def _same_version(one: Target, other: Target) -> bool:
    """Return whether two entries name the same version; for a canary, only its version is compared."""
    return str(one) == str(other)
