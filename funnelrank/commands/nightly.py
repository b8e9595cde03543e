"""The command `nightly`."""

import re
from datetime import UTC, datetime
from pathlib import Path

import click

from funnelrank.commands.options import PATH, examples, settings_from_environment
from funnelrank.exit_codes import CommandError


@click.command(
    epilog=examples("funnelrank nightly nightly.yaml", "funnelrank nightly nightly.yaml --control   # must be refused")
)
@click.argument("config", type=PATH, metavar="CONFIG.yaml")
@click.option(
    "--run", "name", metavar="NAME", help="Name of the run, to continue an earlier one.  [default: today, UTC]"
)
@click.option("--control", is_flag=True, help="Train on shuffled labels: done if the comparison refuses the model.")
def nightly(config: Path, name: str | None, control: bool) -> None:
    """Lead from the exposure log to a new version: compact, join, verify, train, compare, export, roll out.

    Exits with 0 if the version is published, with 1 if it is refused or a step fails. The same command goes on where an
    earlier one ended; report.md and report.json in the run's folder say what was done.
    """
    from loop.nightly.config import read_config
    from loop.nightly.report import PAGE_FILE, lines
    from loop.nightly.run import nightly as run
    from service.documents import bring_documents
    from service.fusion import read_profiles
    from service.rollout.trials.checks import RegistryChecks

    name = name or datetime.now(UTC).strftime("%Y-%m-%d")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise click.BadParameter("use letters, digits, '.', '_' and '-'", param_hint="--run")
    read = read_config(config)
    bring_documents(read.registry)
    settings = settings_from_environment()
    started_with = read_profiles(settings.fusion_file) if settings.fusion_file else None
    checks = RegistryChecks(read.registry, settings.trusted_keys, started_with, settings.max_versions)
    report = run(read, name, checks, control)
    click.echo("\n".join(lines(report)))
    assert report.outcome is not None
    if not report.outcome.is_success:
        raise CommandError(f"{report.outcome}: {report.reason} ({PAGE_FILE} in {read.work})")
