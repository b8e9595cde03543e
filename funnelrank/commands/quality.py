"""The commands about quality while serving: the report, and how often its alarms are false."""

from pathlib import Path
from typing import Literal

import click

from funnelrank.commands.loop import log_option
from funnelrank.commands.options import PATH, POSITIVE, REGISTRY, cache_option, examples
from funnelrank.exit_codes import CommandError

DAYS = click.FloatRange(0, min_open=True)


@click.command(epilog=examples("funnelrank quality --log LOG --recipe R.yaml --registry registry --out quality.html"))
@log_option
@click.option("--recipe", type=PATH, required=True, metavar="RECIPE.yaml", help="A recipe with a section `log`.")
@click.option("--out", type=PATH, required=True, metavar="FILE.html", help="The page; .json and .prom lie beside it.")
@click.option(
    "--registry", type=REGISTRY, metavar="DIR|URI", help="The registry whose bundles know their training part."
)
@click.option("--model", metavar="NAME", help="The model whose exposures count.  [default: the log's only one]")
@click.option("--days", type=DAYS, default=28, show_default=True, metavar="N", help="The days that are measured.")
@click.option("--fail-on-alarm", is_flag=True, help="Exit with 1 if an alarm is raised.")
@click.option(
    "--memory-mb", type=click.IntRange(64), default=1024, show_default=True, metavar="N", help="Memory of the database."
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of the intervals.")
def quality(
    log: Path,
    recipe: Path,
    out: Path,
    registry: Path | None,
    model: str | None,
    days: float,
    fail_on_alarm: bool,
    memory_mb: int,
    seed: int,
) -> None:
    """Measure what the rankings of a log, compacted or live, predicted against what users did, with intervals.

    Writes a page, `quality.json`, and gauges for Prometheus (node_exporter's textfile collector).
    """
    from loop.quality.reports.report import lines, measure, write
    from models.recipe import load_recipe

    document = measure(log, load_recipe(recipe), registry, model, days, memory_mb, seed)
    files = write(document, out)
    click.echo("\n".join([*lines(document), f"report: {files[0]}"]))
    raised = sum(alarm["alarm"] is True for alarm in document["alarms"])
    if raised and fail_on_alarm:
        raise CommandError(f"{raised} alarms")


@click.command(epilog=examples("funnelrank recalibrate runs/mmoe --log LOG --recipe R.yaml --registry registry --of 7"))
@click.argument("run", type=PATH)
@log_option
@click.option("--recipe", type=PATH, required=True, metavar="RECIPE.yaml", help="A recipe with a section `log`.")
@click.option("--registry", type=REGISTRY, required=True, metavar="DIR|URI", help="The registry with the version.")
@click.option("--of", "served", required=True, metavar="V", help="The served version, exported from RUN.")
@click.option(
    "--method",
    type=click.Choice(["platt", "isotonic"]),
    default="platt",
    show_default=True,
    help="The map that is fitted.",
)
@click.option("--days", type=DAYS, default=28, show_default=True, metavar="N", help="The days whose labels are used.")
@click.option(
    "--min-labels", type=POSITIVE, default=200, show_default=True, metavar="N", help="Positives, and negatives, needed."
)
@click.option("--version", metavar="V", help="Name of the new version.  [default: one more than the last]")
@click.option("--sign-with", type=PATH, metavar="KEY.pem", help="Private Ed25519 key, as of `funnelrank export`.")
@cache_option
def recalibrate(
    run: Path,
    log: Path,
    recipe: Path,
    registry: Path,
    served: str,
    method: Literal["platt", "isotonic"],
    days: float,
    min_labels: int,
    version: str | None,
    sign_with: Path | None,
    cache: Path,
) -> None:
    """Fit the calibration of a served version of RUN again, on matured labels of its log, and publish a new version.

    A version in reduced precision stays in it, and is compared with the full one on the data of RUN, as at its export.
    Nothing is rolled out. If no factor has enough labels, or no new map is better, nothing is published.
    """
    from export.sign import signer
    from loop.quality.recalibrate import lines
    from loop.quality.recalibrate import recalibrate as fit
    from models.recipe import load_recipe

    sign = signer(sign_with) if sign_with else None
    done = fit(run, log, load_recipe(recipe), registry, served, method, days, min_labels, version, sign, cache)
    click.echo("\n".join(lines(done)))


@click.command(
    "alarm-rates",
    epilog=examples(
        "funnelrank alarm-rates --users 20000 --rate 0.05 --weeks 400 --seed 7",
        "funnelrank alarm-rates --predictions runs/mmoe/predictions-test.parquet --label is_click --score pctr",
    ),
)
@click.option("--users", type=POSITIVE, default=20_000, show_default=True, metavar="N", help="Simulated users.")
@click.option(
    "--rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    metavar="X",
    help="The rate of the simulated label at the mean logit.",
)
@click.option(
    "--predictions", type=PATH, metavar="FILE", help="Replay the last week of a file of `funnelrank predict` instead."
)
@click.option("--label", metavar="NAME", help="With --predictions: the label.")
@click.option("--score", metavar="NAME", help="With --predictions: the score that predicts it.")
@click.option("--weeks", type=POSITIVE, default=400, show_default=True, metavar="N", help="Weeks to draw.")
@click.option(
    "--shift", type=click.FloatRange(-0.9), default=0.1, show_default=True, metavar="X", help="The planted shift."
)
@click.option("--seed", type=int, default=7, show_default=True, metavar="N", help="Seed of the drawn weeks.")
def alarm_rates(
    users: int,
    rate: float,
    predictions: Path | None,
    label: str | None,
    score: str | None,
    weeks: int,
    shift: float,
    seed: int,
) -> None:
    """Measure on drawn weeks how often the alarm of `quality` is false, and how often it finds a planted shift.

    A stable week and the one before it are drawn from the same users, with replacement: simulated ones, or those of a
    replayed week.
    """
    from loop.quality.rates import alarm_rates as run
    from loop.quality.rates import replayed_pool, simulated_pool

    if predictions is None:
        pool = simulated_pool(users, rate, seed)
    elif label is None or score is None:
        raise click.UsageError("--predictions needs --label and --score")
    else:
        pool = replayed_pool(predictions, label, score)
    rates = run(pool, weeks, shift, seed)
    count = f"{len(pool.labels):,} users, {rates.positives:,.0f} positives each"
    click.echo(f"{rates.weeks} weeks of {count} (seed {seed})")
    click.echo(f"false alarms in stable weeks: {rates.false_alarms} ({rates.false_alarms / rates.weeks:.2%})")
    click.echo(f"a shift of {rates.shift:+.0%} is found in {rates.detected} ({rates.detected / rates.weeks:.1%})")
