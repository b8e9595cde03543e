"""The commands `train`, `predict` and `models`."""

import os
from pathlib import Path

import click

from funnelrank.commands.options import PATH, POSITIVE, cache_option, device_option, examples, settings_option


@click.command(
    epilog=examples(
        "funnelrank train models/recipes/kuairand-mmoe.yaml",
        "funnelrank train models/recipes/kuairand-mmoe.yaml --out runs/try --seed 2 --set training.epochs=2",
        "funnelrank train models/recipes/kuairand-mmoe.yaml --out runs/try --seed 2 --set training.epochs=2 --resume",
        "funnelrank train data/recipe.yaml --from runs/monday --out runs/tuesday --set training.epochs=1",
    )
)
@click.argument("recipe", type=PATH, metavar="RECIPE.yaml")
@click.option("--out", type=PATH, metavar="DIR", help="Folder of the run.  [default: runs/<the recipe's name>]")
@click.option(
    "--from",
    "start",
    type=PATH,
    metavar="RUN",
    help="Continue this finished run: its weights, its optimiser's state, its vocabulary with new ids added.",
)
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
@device_option
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
    start: Path | None,
    seed: int | None,
    overrides: tuple[str, ...],
    resume: bool,
    threads: int | None,
    device: str,
    cache: Path,
    reading_steps: int,
    prefetch: int,
    baselines: bool,
    ablation: bool,
) -> None:
    """Train a recipe (models/recipes/ has some).

    Writes checkpoint.pt, optimiser.pt, recipe.yaml, encoding.npz, kept_rows.npz, metrics.json, history.json and
    report.html.
    """
    # torch reads it once. Rows of a large table lie far apart, and pages of 2 MiB make them faster to find.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
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
            start=start,
            device=device,
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


@click.command(epilog=examples("funnelrank models"))
def models() -> None:
    """List the models of the catalogue: name, paper, and the tasks that each supports."""
    from models.catalogue import CATALOGUE

    width = max(len(name) for name in CATALOGUE)
    for entry in CATALOGUE.values():
        click.echo(f"{entry.name:<{width}}  {entry.paper}  {entry.link}  tasks: {', '.join(entry.tasks)}")
