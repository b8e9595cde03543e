"""The `rollout` command: show or change which versions are live."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from funnelrank.commands.options import chosen_registry, examples, registry_option, settings_from_environment
from funnelrank.exit_codes import CommandError

if TYPE_CHECKING:
    from service.bundle.registry import Target
    from service.rollout.rollout import Canary, Past, Rollout


@dataclass(frozen=True)
class Change:
    """The changes that the options name, as written on the command line."""

    name: str | None
    version: str | None
    canary: str | None
    percent: float | None
    shadow: str | None
    first_pass: str | None
    line: str | None
    scenes: tuple[str, ...]
    end_line: bool


@click.command(
    epilog=examples(
        "funnelrank rollout                                          # show",
        "funnelrank rollout kuairand-mmoe 3                          # make it live for all",
        "funnelrank rollout --canary kuairand-mmoe/4 --percent 5     # for 5 % of the users",
        "funnelrank rollout --canary none --shadow kuairand-mmoe/5   # no canary; score 5 in the background",
        "funnelrank rollout --first-pass kuairand-esmm/1             # for the second step of a brown-out",
        "funnelrank rollout --rollback                               # what was live before",
        "funnelrank rollout --line item_page esmm 1 --scene detail   # versions of its own for a scene",
    )
)
@click.argument("name", required=False)
@click.argument("version", required=False)
@click.option("--canary", metavar="NAME/VERSION", help="Version for some of the users, or 'none'.")
@click.option("--percent", type=float, help="Percentage of the users that get the canary, 0 to 100.")
@click.option("--shadow", metavar="NAME/VERSION", help="Version that scores in the background, or 'none'.")
@click.option("--first-pass", metavar="NAME/VERSION", help="Small version for a brown-out, or 'none'.")
@click.option("--line", metavar="LINE", help="Line to change or roll back.  [default: the default line]")
@click.option("--scene", "scenes", multiple=True, metavar="SCENE", help="Scene that uses the line from now on.")
@click.option("--end-line", is_flag=True, help="Remove the line; its scenes use the default line.")
@click.option("--rollback", is_flag=True, help="Make the previous versions live again.")
@click.option("--to", type=int, metavar="REVISION", help="With --rollback: the revision to go back to.")
@click.option("--history", is_flag=True, help="Show the earlier states, newest first.")
@click.option("--reason", default="", help="Reason for the history.")
@registry_option
def rollout(
    name: str | None,
    version: str | None,
    canary: str | None,
    percent: float | None,
    shadow: str | None,
    first_pass: str | None,
    line: str | None,
    scenes: tuple[str, ...],
    end_line: bool,
    rollback: bool,
    to: int | None,
    history: bool,
    reason: str,
    registry: Path | None,
) -> None:
    """Show the rollout document, or make VERSION of the model NAME live.

    Roles without an option keep their version. Workers follow within FUNNELRANK_ROLLOUT_POLL_MS.
    """
    from service.documents import Edit
    from service.fusion import read_profiles
    from service.rollout.rollout import read_rollout
    from service.rollout.trials.checks import RegistryChecks, go_back, roll_out
    from service.rollout.trials.scene_names import scene_warnings

    settings = settings_from_environment()
    registry = chosen_registry(registry, settings)
    if to is not None and not rollback:
        raise click.UsageError("--to goes with --rollback")
    # Check the change beside the versions, profiles and rules of the registry.
    if end_line and line is None:
        raise click.UsageError("--end-line goes with --line")
    change = Change(name, version, canary, percent, shadow, first_pass, line, scenes, end_line)
    changes = {} if rollback else changes_of(change, registry)
    started_with = read_profiles(settings.fusion_file) if settings.fusion_file else None
    checks = RegistryChecks(registry, settings.trusted_keys, started_with, settings.max_versions)
    edit = Edit(getpass.getuser(), reason)
    if rollback:
        document = go_back(checks, edit, line=line, to=to)
    elif changes:
        document = roll_out(checks, changes, edit)
        # Without profiles here, the service may have some of its own.
        if scenes and (profiles := checks.profiles()) is not None:
            for warning in scene_warnings(document.scenes, profiles):
                click.echo(f"warning: {warning}", err=True)
    else:
        document = read_rollout(registry)
    # Show the result.
    if history:
        click.echo("\n".join([history_line(document), *map(_past_line, document.history)]))
    else:
        click.echo(document.model_dump_json(indent=2, exclude={"history"}))


def changes_of(change: Change, registry: Path) -> dict[str, Any]:
    """Return the new value of each field that changes. Raises click.UsageError and CommandError."""
    changes: dict[str, Any] = {}
    if change.name is not None:
        if change.version is None:
            raise click.UsageError("give both: funnelrank rollout NAME VERSION")
        changes["stable"] = target_of(change.name, change.version)
    if change.canary == "none":
        changes["canary"] = None
    elif change.canary is not None or change.percent is not None:
        changes["canary"] = _canary(change, registry)
    if change.shadow is not None:
        changes["shadow"] = None if change.shadow == "none" else named(change.shadow)
    if change.first_pass is not None:
        removed = change.first_pass == "none"  # nosec B105 # no password
        changes["first_pass"] = None if removed else named(change.first_pass)
    if change.end_line:
        changes["stable"] = None
    if change.scenes or change.end_line:
        changes["scenes"] = dict.fromkeys(change.scenes, change.line) | _ended_scenes(change, registry)
    if change.line is not None and changes:
        changes["line"] = change.line
    return changes


def _ended_scenes(change: Change, registry: Path) -> dict[str, None]:
    """The scenes of a line that ends; they use the default line."""
    from service.rollout.rollout import read_rollout

    if not change.end_line:
        return {}
    return {scene: None for scene, line in read_rollout(registry).scenes.items() if line == change.line}


def _canary(change: Change, registry: Path) -> Canary:
    from pydantic import ValidationError

    from service.rollout.lines.view import lines_of
    from service.rollout.rollout import DEFAULT_LINE, Canary, read_rollout

    if change.percent is None:
        raise click.UsageError("give the percentage of the users: --percent 5")
    target: Target | None = named(change.canary) if change.canary else None
    if target is None:
        line = lines_of(read_rollout(registry)).get(change.line or DEFAULT_LINE)
        target = line.canary if line is not None else None
    if target is None:
        raise CommandError("there is no canary whose percentage could change: --canary NAME/VERSION --percent 5")
    try:
        return Canary(name=target.name, version=target.version, percent=change.percent)
    except ValidationError as error:
        raise CommandError(f"--percent: {error.errors()[0]['msg']}") from None


def named(text: str) -> Target:
    """Return the target of `NAME/VERSION`. Raises CommandError."""
    name, _, version = text.partition("/")
    return target_of(name, version)


def target_of(name: str, version: str) -> Target:
    """Return a version of a model. Raises CommandError."""
    from pydantic import ValidationError

    from service.bundle.registry import Target

    try:
        return Target(name=name, version=version)
    except ValidationError as error:
        problem = error.errors()[0]
        raise CommandError(f"{name}/{version}: {problem['loc'][0]}: {problem['msg']}") from None


def _past_line(entry: Mapping[str, Any]) -> str:
    """Describe an entry of the history, which may have been edited by hand."""
    from pydantic import ValidationError

    from service.errors import first_fault
    from service.rollout.rollout import Past

    try:
        return history_line(Past.model_validate(entry))
    except ValidationError as error:
        return f"{entry.get('revision')!s:>4}  cannot be read: {first_fault(error, Past)}"


def history_line(entry: Rollout | Past) -> str:
    """Describe one revision in one line."""
    parts = [f"{entry.revision:>4}  {entry.written_at}  stable {entry.stable}"]
    if entry.canary:
        parts.append(f" canary {entry.canary} {entry.canary.percent:g} %")
    if entry.shadow:
        parts.append(f" shadow {entry.shadow}")
    if entry.first_pass:
        parts.append(f" first pass {entry.first_pass}")
    parts += [f"  {name}: {line.stable}" for name, line in entry.lines.items()]
    parts.append(f"  by {entry.author or '?'}")
    if entry.reason:
        parts.append(f": {entry.reason}")
    if getattr(entry, "withdrawn", False):
        parts.append(" (withdrawn)")
    return "".join(parts)
