"""The commands that train and score: `train`, `predict`, `tune`, `benchmark`, `models`."""

from pathlib import Path

import click

from funnelrank.commands.options import PATH, POSITIVE, cache_option, examples, settings_option
from funnelrank.exit_codes import CommandError, ExitCode


@click.command(
    epilog=examples(
        "funnelrank train models/recipes/kuairand-mmoe.yaml",
        "funnelrank train models/recipes/kuairand-mmoe.yaml --out runs/try --seed 2 --set training.epochs=2",
        "funnelrank train models/recipes/kuairand-mmoe.yaml --out runs/try --seed 2 --set training.epochs=2 --resume",
    )
)
@click.argument("recipe", type=PATH, metavar="RECIPE.yaml")
@click.option("--out", type=PATH, metavar="DIR", help="Folder of the run.  [default: runs/<the recipe's name>]")
@click.option("--seed", type=int, metavar="N", help="Seed of weights, shuffling and dropout.  [default: the recipe's]")
@settings_option("training.epochs=2")
@click.option(
    "--resume",
    is_flag=True,
    help="Continue an interrupted run in the same folder; the result is the same, bit for bit. A finished run stays.",
)
@click.option(
    "--threads",
    type=POSITIVE,
    metavar="N",
    help="Threads of torch; results repeat only with the same number.  [default: torch's]",
)
@cache_option
@click.option(
    "--reading-steps",
    type=int,
    default=20,
    show_default=True,
    metavar="N",
    help="Steps of the reading-speed measurement; 0 skips it.",
)
@click.option(
    "--prefetch",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Batches that a thread reads in advance, for data larger than memory.",
)
@click.option("--baselines", is_flag=True, help="Fit popularity, logistic regression and boosted trees for comparison.")
@click.option("--ablation", is_flag=True, help="Measure the effect of each group of features, by permutation.")
def train(
    recipe: Path,
    out: Path | None,
    seed: int | None,
    overrides: tuple[str, ...],
    resume: bool,
    threads: int | None,
    cache: Path,
    reading_steps: int,
    prefetch: int,
    baselines: bool,
    ablation: bool,
) -> None:
    """Train a recipe (models/recipes/ has some).

    Writes checkpoint.pt, recipe.yaml, encoding.npz, kept_rows.npz, metrics.json, history.json and report.html.
    """
    import torch

    from models.recipe import RecipeError, load_recipe, with_places
    from models.train import train as run
    from models.training.outcome import METRICS_FILE, summary_lines

    if threads:
        torch.set_num_threads(threads)
    # The seed is an override like any other, so that the run's recipe contains it.
    if seed is not None:
        overrides = (*overrides, f"training.seed={seed}")
    try:
        read = load_recipe(recipe, overrides)
        folder = out or Path("runs") / read.name
        finished = resume and (folder / METRICS_FILE).is_file()
        metrics = run(
            read,
            folder,
            resume=resume,
            cache=cache,
            reading_steps=reading_steps,
            prefetch=prefetch,
            baselines=baselines,
            ablation=ablation,
        )
    except RecipeError as error:
        raise with_places(error, recipe, overrides) from None
    if finished:
        click.echo(f"{folder} is a finished run; nothing was trained again", err=True)
    click.echo("\n".join(summary_lines(metrics, folder)))


@click.command(
    epilog=examples(
        "funnelrank predict runs/kuairand-mmoe",
        "funnelrank predict runs/kuairand-mmoe --against http://127.0.0.1:8000",
    )
)
@click.argument("run", type=PATH)
@click.option(
    "--part",
    type=click.Choice(["train", "validation", "test"]),
    default="test",
    show_default=True,
    metavar="{train,validation,test}",
    help="Which part of the data.",
)
@click.option("--out", type=PATH, metavar="FILE", help="File to write.  [default: RUN/predictions-<part>.parquet]")
@click.option(
    "--against",
    metavar="URL",
    help="Ask the service at this address for the same scores and print the largest difference. It must rank with the "
    "bundle of RUN and hold the same users, items and behaviours.",
)
@cache_option
def predict(run: Path, part: str, out: Path | None, against: str | None, cache: Path) -> None:
    """Write the scores of every impression of a RUN's test part to a Parquet file, with ids, time and labels."""
    from models.predict import predict as scored

    for line in scored(run, part, out, against, cache):
        click.echo(line)


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
def tune(recipe: Path, out: Path | None, overrides: tuple[str, ...], cache: Path, threads: int) -> None:
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
        outcome = run(read, out or Path("runs") / f"{read.name}-tuning", cache=cache)
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
def benchmark(
    recipes: tuple[Path, ...],
    seeds: int,
    overrides: tuple[str, ...],
    runs: Path,
    cache: Path,
    threads: int,
    baselines: bool,
    out: Path | None,
) -> int:
    """Train recipes over several seeds and tabulate the test metrics, mean and sample deviation.

    There is a table for each data set and label, with the reference values of models/reports/marks.yaml. Finished runs
    are reused. If a run fails, the others continue. Without arguments, all recipes of models/recipes are trained.
    """
    import torch

    from models.benchmark import run_benchmark

    torch.set_num_threads(threads)
    failures = run_benchmark(list(recipes), seeds, overrides, runs, cache, out, baselines)
    for failure in failures:
        click.echo(failure, err=True)
    return ExitCode.FAILED if failures else ExitCode.DONE


@click.command(epilog=examples("funnelrank models"))
def models() -> None:
    """List the models of the catalogue: name, paper, and the tasks that each supports."""
    from models.catalogue import CATALOGUE

    width = max(len(name) for name in CATALOGUE)
    for entry in CATALOGUE.values():
        click.echo(f"{entry.name:<{width}}  {entry.paper}  {entry.link}  tasks: {', '.join(entry.tasks)}")
