"""The `score` command: rank many users at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from funnelrank.commands.options import PATH, POSITIVE, examples, settings_from_environment
from funnelrank.exit_codes import CommandError


@click.command(
    epilog=examples(
        "funnelrank score --users users.parquet --candidates items.parquet --top-k 100 --out lists/2026-03-01",
        "funnelrank score --users users.parquet --candidates items.parquet --out /shared/lists --ray auto",
        "funnelrank score --users s3://bucket/users/date=0501 --scene home --rules strict --out lists/home",
        "funnelrank score --users users.parquet --candidates items.parquet --top-k 1 --user-output user_representation"
        " --out users/2026-03-01",
    )
)
@click.option(
    "--users",
    required=True,
    metavar="PLACE",
    help="Parquet or CSV (a file, a folder, a pattern or a URI) with a column user_id and, without --candidates, a "
    "list column candidates.",
)
@click.option("--candidates", metavar="PLACE", help="A table with a column item_id: the list of every user.")
@click.option("--out", type=PATH, required=True, metavar="DIR", help="Folder of the partitions.")
@click.option("--top-k", type=POSITIVE, metavar="K", help="Items to keep per user.  [default: all]")
@click.option("--scene", metavar="NAME", help="Picks the fusion profile, the rules and the line, as in a request.")
@click.option("--profile", metavar="NAME", help="A profile of the fusion document.  [default: the scene's and user's]")
@click.option(
    "--rules",
    metavar="NAME",
    help="A list of the rules document, '' for no rules.  [default: the scene's and user's]",
)
@click.option("--context", metavar="JSON", help="""Values of the context features, as '{"hour": 9}'.""")
@click.option(
    "--timestamp",
    type=click.IntRange(min=1),
    metavar="MS",
    help="Time to rank as of, milliseconds since 1970.  [default: the begin of the run]",
)
@click.option(
    "--user-output",
    "user_outputs",
    multiple=True,
    metavar="NAME",
    help="Also write this output of the graph, a vector per user, as `user_representation`; may be repeated.",
)
@click.option(
    "--partition-users", type=POSITIVE, default=1000, show_default=True, metavar="N", help="Users of one partition."
)
@click.option(
    "--processes", type=POSITIVE, metavar="N", help="Scoring processes.  [default: cores / FUNNELRANK_MODEL_THREADS]"
)
@click.option(
    "--ray", metavar="ADDRESS", help="Score on this Ray cluster instead; auto: this machine's; local: a new one."
)
def score(
    users: str,
    candidates: str | None,
    out: Path,
    top_k: int | None,
    scene: str | None,
    profile: str | None,
    rules: str | None,
    context: str | None,
    timestamp: int | None,
    user_outputs: tuple[str, ...],
    partition_users: int,
    processes: int | None,
    ray: str | None,
) -> None:
    """Rank every user of a table with what is live, by the service's own code and the rows in Redis.

    The numbers are those that POST /rank (with --profile or --rules: POST /rank/preview) answers with the same
    settings, bit for bit. A partition appears when it is
    complete. Run again after an interruption, the command scores the partitions that are missing.
    """
    from functools import partial

    from batch.job import BatchOptions
    from batch.pool import score_in_processes
    from batch.run import Runner
    from batch.run import score as run

    settings = settings_from_environment()
    options = BatchOptions(
        timestamp,
        top_k,
        scene,
        _context(context),
        partition_users,
        tuple(dict.fromkeys(user_outputs)),
        profile,
        rules,
    )
    cores = max(1, len(os.sched_getaffinity(0)) // settings.model_threads)
    runner: Runner = partial(score_in_processes, processes=processes or cores)
    if ray is not None:
        from batch.cluster import score_on_ray

        runner = partial(score_on_ray, address=ray)
    total = run(users, candidates, out, options, settings, runner, click.echo)
    click.echo(f"{out}: {total.users:,} users, {total.rows:,} rows; degraded rankings: {total.degraded:,}")


def _context(text: str | None) -> dict[str, Any]:
    from features.files.strict_json import parse_json

    if text is None:
        return {}
    try:
        context = parse_json(text.encode())
    except (ValueError, RecursionError) as error:
        raise CommandError(f"--context: not JSON: {error}") from None
    if not isinstance(context, dict):
        raise CommandError("--context: an object is needed")
    return context
