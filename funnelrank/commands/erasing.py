"""The command `forget-user`."""

from pathlib import Path

import click

from funnelrank.commands.options import PATH, examples, settings_from_environment
from funnelrank.exit_codes import CommandError
from service.addresses.log_address import is_uri


@click.command(
    "forget-user", epilog=examples("funnelrank forget-user 712 --log /var/log/funnelrank --tables data/joined")
)
@click.argument("user_id", metavar="ID")
@click.option("--log", type=PATH, metavar="DIR", help="The exposure log.  [default: FUNNELRANK_EXPOSURE_LOG]")
@click.option(
    "--tables", type=PATH, multiple=True, metavar="DIR", help="A folder of joined tables (Parquet). Repeatable."
)
def forget_user(user_id: str, log: Path | None, tables: tuple[Path, ...]) -> None:
    """Delete what is known of a user from Redis, the exposure log and joined tables, and search them for the rest.

    Exits with 1 if anything is left. It may be interrupted and run again.
    """
    from loop.erasure.log import forget_in_log
    from loop.erasure.tables import forget_in_tables
    from service.store.redis.forget_user import forget_user as forget_in_redis

    if not user_id:
        raise click.BadParameter("an empty id names no user", param_hint="ID")
    settings = settings_from_environment()
    if log is None and is_uri(settings.exposure_log):
        hint = f"the log is sent to {settings.exposure_log}: name the folder that `compact` writes"
        raise click.BadParameter(hint, param_hint="--log")
    folder = log or settings.log_folder
    # Redis first, so that no later ranking is logged with the old rows.
    removed, left = forget_in_redis(settings.redis_url.get_secret_value(), user_id)
    click.echo(f"Redis: {removed} keys removed")
    if folder is None:
        click.echo("no exposure log is named: none was searched")
    else:
        counts, left_in_log = forget_in_log(folder, user_id)
        click.echo(f"{folder}: removed " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
        left += [f"{path} ({count:,})" for path, count in left_in_log.items()]
    for joined in tables:
        counts, left_in_tables = forget_in_tables(joined, user_id)
        click.echo(f"{joined}: removed " + ", ".join(f"{count:,} of {name}" for name, count in counts.items()))
        left += [f"{path} ({count:,})" for path, count in left_in_tables.items()]
    if left:
        raise CommandError(
            f"something of the user is left: {', '.join(left)}; run the same command again when the workers have "
            "closed these files (FUNNELRANK_EXPOSURE_ROLL_MS) and the user is inactive"
        )
    click.echo("nothing of the user is left in what was searched")
