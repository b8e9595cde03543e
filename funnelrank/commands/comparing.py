"""The commands that train many runs and compare them: `tune`, `benchmark`, `daily`."""

from pathlib import Path

import click

from funnelrank.commands.options import PATH, POSITIVE, cache_option, device_option, examples, settings_option
from funnelrank.exit_codes import CommandError, ExitCode


@click.command(
    epilog=examples(
        "funnelrank tune models/recipes/census-mmoe.yaml --out runs/census-tuning",
        "funnelrank tune models/recipes/census-mmoe.yaml --out runs/census-tuning --set tuning.trials=40",
    )
)
@click.argument("recipe", type=PATH, metavar="RECIPE.yaml")
@click.option(
    "--out",
    type=PATH,
    metavar="DIR",
    help="Folder of the search; one process at a time may use it.  [default: runs/<the recipe's name>-tuning]",
)
@settings_option("tuning.trials=40")
@cache_option
@click.option(
    "--threads",
    type=POSITIVE,
    default=1,
    show_default=True,
    metavar="N",
    help="Threads of torch; with 1, a search repeats bit for bit.",
)
@device_option
def tune(recipe: Path, out: Path | None, overrides: tuple[str, ...], cache: Path, threads: int, device: str) -> None:
    """Search the space of a recipe's tuning section on its validation part.

    Writes trials.md, trials.json, tuned.yaml and study.db. The same command continues an interrupted search; if the
    number of trials was raised, it adds the missing ones.
    """
    import torch

    from models.recipe import RecipeError, load_recipe, with_places
    from models.tuning.tune import tune as run

    torch.set_num_threads(threads)
    try:
        read = load_recipe(recipe, overrides)
        outcome = run(read, out or Path("runs") / f"{read.name}-tuning", cache=cache, device=device)
    except RecipeError as error:
        raise with_places(error, recipe, overrides) from None
    if not outcome["best"]:
        raise CommandError("no trial was completed")


@click.command(
    epilog=examples(
        "funnelrank benchmark --out docs/results    # every recipe whose data exists, 5 seeds each",
        "funnelrank benchmark models/recipes/census-*.yaml --seeds 3",
        "funnelrank benchmark models/recipes/*-small*.yaml --baselines --out docs/small-data",
    )
)
@click.argument("recipes", type=PATH, nargs=-1, metavar="[RECIPE.yaml]...")
@click.option("--seeds", type=POSITIVE, default=5, show_default=True, metavar="N", help="Seeds 1 to N of each recipe.")
@settings_option("training.epochs=2, in all recipes; {seed} is the seed")
@click.option(
    "--runs",
    type=PATH,
    default=Path("runs/benchmark"),
    show_default=True,
    metavar="DIR",
    help="Folder of the runs.",
)
@cache_option
@click.option(
    "--threads",
    type=POSITIVE,
    default=1,
    show_default=True,
    metavar="N",
    help="Threads of torch; with 1, a run repeats bit for bit.",
)
@click.option(
    "--baselines",
    is_flag=True,
    help="Add logistic regression and boosted trees, whose settings are searched on the validation part.",
)
@click.option(
    "--out",
    type=PATH,
    metavar="PATH",
    help="Also write PATH.json and PATH.md; text in PATH.md above the tables stays.",
)
@device_option
def benchmark(
    recipes: tuple[Path, ...],
    seeds: int,
    overrides: tuple[str, ...],
    runs: Path,
    cache: Path,
    threads: int,
    baselines: bool,
    out: Path | None,
    device: str,
) -> int:
    """Train recipes over several seeds and tabulate the test metrics, mean and sample deviation.

    There is a table for each data set and label, with the reference values of models/reports/marks.yaml. Finished runs
    are reused. If a run fails, the others continue. Without arguments, all recipes of models/recipes are trained.
    """
    import torch

    from models.benchmark import run_benchmark

    torch.set_num_threads(threads)
    failures = run_benchmark(list(recipes), seeds, overrides, runs, cache, out, baselines, device)
    for failure in failures:
        click.echo(failure, err=True)
    return ExitCode.FAILED if failures else ExitCode.DONE


@click.command(epilog=examples("funnelrank daily models/recipes/kuairand-mmoe.yaml --out runs/daily"))
@click.argument("recipe", type=PATH, metavar="RECIPE.yaml")
@click.option("--out", type=PATH, metavar="DIR", help="Folder of the runs.  [default: runs/<the recipe's name>-daily]")
@click.option(
    "--hours",
    type=click.FloatRange(0.5, 12),
    default=3,
    show_default=True,
    metavar="N",
    help="Last hours of a day that select the weights.",
)
@click.option(
    "--warm-epochs", type=POSITIVE, default=1, show_default=True, metavar="N", help="Epochs of a continued run."
)
@settings_option("training.epochs=2")
@cache_option
@device_option
def daily(
    recipe: Path,
    out: Path | None,
    hours: float,
    warm_epochs: int,
    overrides: tuple[str, ...],
    cache: Path,
    device: str,
) -> None:
    """Train day after day: the run of the day before continued on the new day, and afresh on all days so far.

    The days are those between the first training time and the last test time of a split by time; every run is measured
    on the day after it. Prints the quality and cost of both ways. Finished runs are kept.
    """
    from models.daily import table_of, train_daily
    from models.recipe import RecipeError, load_recipe, with_places

    try:
        read = load_recipe(recipe, overrides)
        result = train_daily(read, out or Path("runs") / f"{read.name}-daily", cache, hours, warm_epochs, device)
    except RecipeError as error:
        raise with_places(error, recipe, overrides) from None
    click.echo(table_of(result))
