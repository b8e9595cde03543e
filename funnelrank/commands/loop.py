"""The commands of the loop: from the exposure log to training tables, proofs and replays."""

from collections.abc import Collection
from pathlib import Path

import click

from funnelrank.commands.options import PATH, POSITIVE, REGISTRY, examples, settings_from_environment
from funnelrank.exit_codes import CommandError

log_option = click.option("--log", type=PATH, required=True, metavar="DIR", help="The folder of the exposure log.")
threads_option = click.option(
    "--threads", type=POSITIVE, default=1, show_default=True, metavar="N", help="Threads of ONNX Runtime."
)


@click.command(
    epilog=examples(
        "funnelrank compact --log /var/log/funnelrank --keep-days 30 --keep-gb 100",
        "funnelrank compact --log LOG --source s3://bucket/exposures",
    )
)
@log_option
@click.option(
    "--source", metavar="URI", help="First take what services have sent there: s3://, gs://, az://, file://, kafka://."
)
@click.option("--keep-days", type=float, metavar="N", help="Remove hours that are older.  [default: keep all]")
@click.option("--keep-gb", type=float, metavar="N", help="Remove the oldest hours beyond this size.")
@click.option("--verify", type=PATH, metavar="REGISTRY", help="Then verify the hours that were written, as verify-log.")
@click.option("--tables", type=PATH, metavar="DIR", help="With --verify: the tables that training reads.")
@click.option(
    "--share",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    metavar="X",
    help="With --verify: the share of requests.",
)
def compact(
    log: Path,
    source: str | None,
    keep_days: float | None,
    keep_gb: float | None,
    verify: Path | None,
    tables: Path | None,
    share: float,
) -> None:
    """Turn the closed files of an exposure log into one Parquet file per hour and kind of record.

    It may run at any time beside the service, be interrupted, and run again. It names files that are cut, damaged or do
    not belong to the log. Files that were taken with --source are removed there when their hours are written.
    """
    from loop.log.compact import compact as run
    from loop.log.sources import opened

    keep_bytes = None if keep_gb is None else int(keep_gb * 1e9)
    with opened(source) as opened_source:
        done = run(log, keep_days and keep_days * 24, keep_bytes, opened_source)
    rows = ", ".join(f"{count:,} {kind.value}" for kind, count in done.rows.items())
    click.echo(f"compacted {done.files} files: {rows}; hours written: {len(done.hours)}")
    if done.in_use:
        click.echo(f"{len(done.in_use)} files are still written to")
    if done.foreign:
        click.echo(f"{source}: {done.foreign} objects or messages are no files of a log and were left alone", err=True)
    for check in done.faulty:
        kind = (
            "cut by a crash" if check.cut else "damaged, moved to damaged/" if check.damaged else "foreign, left alone"
        )
        click.echo(f"{check.path}: {kind}, {check.rows:,} records read: {check.problem}", err=True)
    if done.removed:
        click.echo(f"removed {len(done.removed)} hours, {done.removed[0]} to {done.removed[-1]}")
    written = done.hours - set(done.removed)
    if verify is not None and written:
        _verify(log, verify, tables, share, written)


@click.command(
    epilog=examples("funnelrank join --log LOG --recipe recipe.yaml --out data", "funnelrank train data/recipe.yaml")
)
@log_option
@click.option("--recipe", type=PATH, required=True, metavar="RECIPE.yaml", help="A recipe with a section `log`.")
@click.option("--out", type=PATH, required=True, metavar="DIR", help="Folder to write the tables and their recipe to.")
@click.option("--model", metavar="NAME", help="The model whose exposures count.  [default: the log's only one]")
@click.option(
    "--memory-mb", type=click.IntRange(64), default=1024, show_default=True, metavar="N", help="Memory of the database."
)
def join(log: Path, recipe: Path, out: Path, model: str | None, memory_mb: int) -> None:
    """Join a compacted exposure log into training tables: features as they were served, labels with closed windows.

    Writes the canonical tables, `join.json`, and a recipe that `funnelrank train` reads as it is. `hours/` beside them
    has the rows of each hour, so that the next join writes only those again that have changed.
    """
    from loop.join.join import PIECES
    from loop.join.join import join as run
    from loop.join.report import lines
    from models.recipe import load_recipe

    click.echo("\n".join(lines(run(log, load_recipe(recipe), out, model, memory_mb, out / PIECES))))


@click.command(
    epilog=examples(
        "funnelrank replay r-4711 --log LOG --registry registry --version 8",
        "funnelrank replay r-4711 --log LOG --registry registry --rules spring.yaml",
        "funnelrank replay r-4711 --log LOG --registry registry --features now",
    )
)
@click.argument("request_id")
@log_option
@click.option("--registry", type=REGISTRY, required=True, metavar="DIR|URI", help="The registry with the bundle.")
@click.option("--version", metavar="V", help="Rank by this version of the model instead.")
@click.option("--profile", metavar="NAME", help="Fuse by this profile of the registry's fusion document instead.")
@click.option(
    "--rules", metavar="FILE|REVISION", help="Arrange by these rules instead; a revision of rules.json, 0: no rules."
)
@click.option("--features", type=click.Choice(["now"]), help="Rank as of now, with the rows that Redis has now.")
@threads_option
def replay(
    request_id: str,
    log: Path,
    registry: Path,
    version: str | None,
    profile: str | None,
    rules: str | None,
    features: str | None,
    threads: int,
) -> None:
    """Rank a logged request again, bit for bit, every page of its list; or change one thing and show the difference.

    --features now reads the store of FUNNELRANK_REDIS_URL.
    """
    from loop.proof.replay import replay as run
    from loop.proof.replay_lines import lines

    redis_url = None
    if features is not None:
        redis_url = settings_from_environment().redis_url.get_secret_value()
    replayed = run(log, registry, request_id, version, profile, threads, rules, redis_url)
    click.echo("\n".join(lines(replayed)))
    if not replayed.is_changed and (replayed.differing or replayed.is_moved):
        raise CommandError(f"the request {request_id} does not replay as it was served")


@click.command(epilog=examples("funnelrank why 6831 r-4711 r-4712 --log LOG --registry registry"))
@click.argument("item")
@click.argument("request_a")
@click.argument("request_b")
@log_option
@click.option("--registry", type=REGISTRY, required=True, metavar="DIR|URI", help="The registry with the bundles.")
@click.option("--common", is_flag=True, help="Compare the places among the candidates of both requests alone.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document with the places of all 16 rankings.")
@threads_option
def why(
    item: str,
    request_a: str,
    request_b: str,
    log: Path,
    registry: Path,
    common: bool,
    as_json: bool,
    threads: int,
) -> None:
    """Say why the place of ITEM changed from REQUEST_A to REQUEST_B, two logged requests of one user.

    Ranks all 16 mixtures of version, weights and rules, features, and behaviours again, and prints the Shapley share of
    each: the shares sum to the change of the place.
    """
    import json

    from loop.why.report import document, lines
    from loop.why.why import why as run

    change = run(log, registry, item, request_a, request_b, common, threads)
    click.echo(json.dumps(document(change), indent=2) if as_json else "\n".join(lines(change)))


@click.command(
    "verify-log",
    epilog=examples("funnelrank verify-log --log LOG --registry registry --tables data/kuairand --share 0.05"),
)
@log_option
@click.option("--registry", type=REGISTRY, required=True, metavar="DIR|URI", help="The registry with the bundles.")
@click.option("--tables", type=PATH, metavar="DIR", help="The tables that training reads: users, items, behaviours.")
@click.option(
    "--share", type=click.FloatRange(0, 1), default=1.0, show_default=True, metavar="X", help="Share of the requests."
)
def verify_log(log: Path, registry: Path, tables: Path | None, share: float) -> None:
    """Compute logged exposures again: scores in ONNX Runtime and, with --tables, rows as training reads them.

    A difference is named with its feature, its row and the first moment.
    """
    _verify(log, registry, tables, share, None)


def _verify(log: Path, registry: Path, tables: Path | None, share: float, hours: Collection[str] | None) -> None:
    """Verify exposures, print the result and keep its counts for the metrics. Raises CommandError for a difference."""
    from loop.proof.verify import lines, verify, write_counts

    done = verify(log, registry, tables, share, hours)
    write_counts(log, done)
    click.echo("\n".join(lines(done)), err=bool(done.skews))
    if done.skews:
        raise CommandError(f"{len(done.skews)} features or tasks differ between serving and training")
