"""The commands of the service: `serve`, `load`, `inspect`, `run-sample`."""

from pathlib import Path

import click

from funnelrank.commands.options import PATH, chosen_registry, examples, registry_option, settings_from_environment
from funnelrank.exit_codes import CommandError, ExitCode


class SettingsInHelp(click.Command):
    """A command whose help ends with the table of settings."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from service.settings_help import described

        formatter.write(f"\nsettings (environment; default; [unit] meaning):\n{described()}\n")
        super().format_epilog(ctx, formatter)


@click.command(cls=SettingsInHelp, epilog=examples("FUNNELRANK_WORKERS=2 funnelrank serve"))
def serve() -> int:
    """Serve rankings over HTTP until SIGTERM or SIGINT."""
    from service.server.serve import serve as run
    from service.settings import Settings

    return ExitCode.FAILED if run(Settings.from_environment()) else ExitCode.DONE


@click.command(
    epilog=examples(
        "funnelrank load data/ --registry registry --bundle kuairand-mmoe/3",
        "funnelrank load --forget 1f0c5a7e9b3d2846    # when no version with this schema will be live again",
    )
)
@click.argument("folder", type=PATH, required=False)
@click.option("--restart", is_flag=True, help="Begin anew instead of continuing an interrupted load.")
@click.option(
    "--forget",
    metavar="FINGERPRINT",
    help="Remove all rows of a feature schema. Live writes no longer go to it.",
)
@registry_option
@click.option("--bundle", metavar="NAME/VERSION", help="The bundle whose schema to use.  [default: the live one]")
def load(folder: Path | None, restart: bool, forget: str | None, registry: Path | None, bundle: str | None) -> int:
    """Load users, items and behaviours (.parquet or .csv) of FOLDER into Redis.

    Any of the tables may be absent. After an interruption, the same command continues where it stopped. A finished load
    may be repeated: rows are replaced, behaviours are merged without duplicates.
    """
    from redis.exceptions import RedisError

    from funnelrank.commands.rollout import named
    from service.bundle.registry import folder_of
    from service.bundle.verify import read_manifest
    from service.rollout.rollout import read_rollout
    from service.store.opening import lifetimes_of
    from service.store.redis.loading.load import load_folder

    settings = settings_from_environment()
    registry = chosen_registry(registry, settings)
    if (folder is None) == (forget is None):
        raise click.UsageError("name a folder to load, or --forget FINGERPRINT")
    if folder is None:
        return _forget(str(forget), registry)
    # The schema, and the names of the tables and columns, are those of the version.
    target = named(bundle) if bundle else read_rollout(registry).stable
    manifest = read_manifest(folder_of(registry, target), settings.trusted_keys)
    try:
        redis_url = settings.redis_url.get_secret_value()
        lifetimes = lifetimes_of(settings)
        load_folder(folder, manifest.feature_schema, redis_url, restart, manifest.tables, registry, lifetimes)
    except RedisError as error:
        raise RedisError(f"{error}; run the same command again to continue") from None
    return ExitCode.DONE


def _forget(fingerprint: str, registry: Path) -> int:
    """Retire a schema. A schema that is live is refused, because its workers would write its rows again."""
    from service.bundle.registry import folder_of
    from service.bundle.verify import read_manifest
    from service.rollout.lines.view import versions_of
    from service.rollout.rollout import read_rollout
    from service.settings import Settings
    from service.store.redis.loading.claims import SchemaInUse
    from service.store.redis.loading.schemas import forget_schema, listed

    redis_url = Settings.from_environment().redis_url.get_secret_value()
    live = read_rollout(registry)
    for target in versions_of(live).values():
        if read_manifest(folder_of(registry, target)).fingerprint == fingerprint:
            raise CommandError(f"{target} is live and has the schema {fingerprint}; take it out of the rollout first")
    try:
        removed = forget_schema(redis_url, fingerprint, registry)
    except SchemaInUse as error:
        raise CommandError(str(error)) from None
    except KeyError:
        raise CommandError(f"there are no keys of a schema {fingerprint}; Redis has {listed(redis_url)}") from None
    click.echo(f"{removed} keys of schema {fingerprint} removed")
    return ExitCode.DONE


@click.command(epilog=examples("funnelrank inspect user 712", "funnelrank inspect item 6831"))
@click.argument("entity", type=click.Choice(["user", "item"]))
@click.argument("entity_id", metavar="ID")
def inspect(entity: str, entity_id: str) -> int:
    """Show what Redis has for a user or an item, decoded. Exits with 1 if it has nothing."""
    from service.store.redis.inspect import shown

    redis_url = settings_from_environment().redis_url.get_secret_value()
    exists, text = shown(redis_url, "user" if entity == "user" else "item", entity_id)
    click.echo(text)
    return ExitCode.DONE if exists else ExitCode.FAILED


@click.command(epilog=examples("funnelrank run-sample --sample sample/ --port 8000"))
@click.option("--sample", type=PATH, default=Path("sample"), show_default=True, help="The sample folder.")
@click.option("--port", type=int, help="Port to listen on.  [default: FUNNELRANK_PORT]")
def run_sample(sample: Path, port: int | None) -> int:
    """Serve the sample, with a Redis of its own if FUNNELRANK_REDIS_URL is not set, until SIGTERM or SIGINT."""
    from service.sample.run import run_sample as run

    settings = settings_from_environment()
    return ExitCode.FAILED if run(sample, settings, port or settings.port) else ExitCode.DONE
