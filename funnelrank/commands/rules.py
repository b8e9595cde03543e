"""The `rules` command: show or change the rules that rearrange rankings after fusion."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from funnelrank.commands.options import PATH, chosen_registry, examples, registry_option

if TYPE_CHECKING:
    from service.rules.definition.document import RulesDocument
    from service.settings import Settings


@click.command(
    epilog=examples(
        "funnelrank rules                                # show",
        "funnelrank rules spring.yaml --reason variety   # make the rules of a file live",
        "funnelrank rules --history                      # the earlier rules, newest first",
        "funnelrank rules --rollback                     # restore the earlier rules",
    )
)
@click.argument("file", required=False, type=PATH)
@click.option("--rollback", is_flag=True, help="Make the rules hold again that held before.")
@click.option("--to", type=int, metavar="REVISION", help="With --rollback: the revision to go back to.")
@click.option("--history", is_flag=True, help="Show the earlier rules, newest first.")
@click.option("--reason", default="", help="Reason for the history.")
@registry_option
def rules(file: Path | None, rollback: bool, to: int | None, history: bool, reason: str, registry: Path | None) -> None:
    """Show the rules document, or make the rules of FILE (YAML or JSON) live.

    The rules must fit every version that the rollout document names. Workers follow within FUNNELRANK_ROLLOUT_POLL_MS,
    and refuse rules that leave no candidate in any of their recent requests. Listed items that Redis does not have are
    warnings.
    """
    from service.documents import Edit
    from service.rollout.trials.checks import RegistryChecks
    from service.rules.definition.document import DOCUMENT, NO_RULES, read_rules
    from service.settings import Settings

    if to is not None and not rollback:
        raise click.UsageError("--to goes with --rollback")
    if file is not None and rollback:
        raise click.UsageError("give a file or --rollback")
    settings = Settings.from_environment()
    registry = chosen_registry(registry, settings)
    fits = RegistryChecks(registry, settings.trusted_keys, None, settings.max_versions).fit_rules
    edit = Edit(getpass.getuser(), reason)
    if rollback:
        document = DOCUMENT.roll_back(registry, edit, to=to, check=fits)
    elif file is not None:
        document = DOCUMENT.change(registry, DOCUMENT.whole(read_rules(file)), edit, check=fits)
    else:
        document = DOCUMENT.read(registry) or NO_RULES
    if rollback or file is not None:
        _warn(document, registry, settings)
    if history:
        click.echo("\n".join(map(_history_line, _entries(document))))
    else:
        click.echo(document.model_dump_json(indent=2, exclude={"history"}, exclude_none=True))


def _warn(document: RulesDocument, registry: Path, settings: Settings) -> None:
    """Print a warning for each listed item that the store lacks."""
    from service.bundle.registry import folder_of
    from service.bundle.verify import BundleRejected, read_manifest
    from service.rollout.lines.view import lines_of
    from service.rollout.rollout import RolloutUnreadable, read_followed
    from service.rollout.trials.rule_items import item_warnings

    # The change is made already, so that nothing may end the command as if it were not.
    try:
        targets = [line.stable for line in lines_of(read_followed(registry)).values()]
        manifests = [read_manifest(folder_of(registry, target), settings.trusted_keys) for target in targets]
    except (RolloutUnreadable, BundleRejected) as error:
        click.echo(f"warning: the item ids of the rules were not checked: {error}", err=True)
        return
    fingerprints = [manifest.fingerprint for manifest in manifests]
    for warning in item_warnings(document, fingerprints, settings.redis_url.get_secret_value()):
        click.echo(f"warning: {warning}", err=True)


def _entries(document: RulesDocument) -> list[Mapping[str, Any]]:
    return [document.model_dump(mode="json"), *document.history]


def _history_line(entry: Mapping[str, Any]) -> str:
    """One line about one revision."""
    lists = ", ".join(f"{name} ({len(rules)})" for name, rules in entry.get("rules", {}).items()) or "no rules"
    reason = f": {entry['reason']}" if entry.get("reason") else ""
    withdrawn = " (withdrawn)" if entry.get("withdrawn") else ""
    author = entry.get("author") or "?"
    return f"{entry['revision']:>4}  {entry.get('written_at', '')}  {lists}  by {author}{reason}{withdrawn}"
