"""The `callers` command: add callers, rotate and revoke their keys, list them."""

from __future__ import annotations

import getpass
from datetime import timedelta
from pathlib import Path

import click

from funnelrank.commands.options import chosen_registry, examples, registry_option

_ROLES = ["read", "write", "operate"]


@click.group(
    epilog=examples(
        "funnelrank callers add shop --role write --rate 500     # prints the key, once",
        "funnelrank callers rotate shop --overlap-hours 24       # prints a new key; the old one ends tomorrow",
        "funnelrank callers list",
        "funnelrank callers revoke shop --key 3fa94c1b02d7       # one key; without --key, the caller",
    )
)
def callers() -> None:
    """Say who may call the service: one key per program, with a role and a rate.

    The first `add` closes the service: from then on every call but health and the API's description needs a key. Keys
    are stored hashed in callers.json of the registry; workers follow within FUNNELRANK_ROLLOUT_POLL_MS.
    """


@callers.command(epilog=examples("funnelrank callers add shop --role write --rate 500"))
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(_ROLES),
    default="read",
    show_default=True,
    help="read: rank and look; write: also events, impressions, features; operate: everything.",
)
@click.option("--rate", type=float, metavar="N", help="Most requests per second on a host.  [default: no limit]")
@registry_option
def add(name: str, role: str, rate: float | None, registry: Path | None) -> None:
    """Add a caller and print its key, which is stored nowhere."""
    from service.callers.document import CallerRole, add_caller

    click.echo(add_caller(_registry(registry), name, CallerRole(role), rate, getpass.getuser()))


@callers.command(epilog=examples("funnelrank callers rotate shop --overlap-hours 24"))
@click.argument("name")
@click.option(
    "--overlap-hours",
    type=click.FloatRange(min=0, max=24 * 365),
    default=24.0,
    show_default=True,
    metavar="H",
    help="Time for which the present keys stay valid; 0 ends them at once.",
)
@registry_option
def rotate(name: str, overlap_hours: float, registry: Path | None) -> None:
    """Make a new key for a caller and print it."""
    from service.callers.document import rotate_key

    click.echo(rotate_key(_registry(registry), name, timedelta(hours=overlap_hours), getpass.getuser()))


@callers.command(epilog=examples("funnelrank callers revoke shop", "funnelrank callers revoke shop --key 3fa94c1b02d7"))
@click.argument("name")
@click.option("--key", metavar="ID", help="The key to remove, as `list` shows it.  [default: the caller with all keys]")
@registry_option
def revoke(name: str, key: str | None, registry: Path | None) -> None:
    """Remove a caller, or one of its keys."""
    from service.callers.document import revoke as remove

    remove(_registry(registry), name, key, getpass.getuser())


@callers.command(name="list", epilog=examples("funnelrank callers list"))
@registry_option
def list_(registry: Path | None) -> None:
    """List callers and keys. `GET /callers` also has the time of the last use."""
    from service.callers.document import read_followed_callers
    from service.documents import DocumentUnreadable

    document, problem = read_followed_callers(_registry(registry))
    if problem and document is None:
        lock = "workers keep their last keys, and a start accepts the admin token alone"
        raise DocumentUnreadable(f"{problem}; its copy cannot be read either: {lock}")
    if problem:
        click.echo(f"warning: {problem}; workers follow its copy", err=True)
    if document is None:
        click.echo("no callers document: everybody may rank, and operators' calls need the admin token", err=True)
        return
    for caller in document.callers:
        rate = "no limit" if caller.rate is None else f"{caller.rate:g}/s"
        click.echo(f"{caller.name:<24}{caller.role:<9}{rate}")
        for key in caller.keys:
            expires = f", expires {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else ""
            click.echo(f"  {key.id}  created {key.created_at:%Y-%m-%d %H:%M} UTC{expires}")


def _registry(registry: Path | None) -> Path:
    from service.settings import Settings

    return chosen_registry(registry, Settings.from_environment())
