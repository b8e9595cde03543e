"""The commands `train`, `predict` and `models`."""

import os
from pathlib import Path

import click

from funnelrank.commands.options import (
    PATH,
    POSITIVE,
    KeepsWords,
    cache_option,
    device_option,
    examples,
    settings_option,
)
from funnelrank.exit_codes import CommandError, ExitCode


@click.command(
    cls=KeepsWords,
    epilog=examples(
        "funnelrank train models/recipes/kuairand-mmoe.yaml",
        "funnelrank train models/recipes/kuairand-mmoe.yaml --out runs/try --seed 2 --set training.epochs=2",
        "funnelrank train models/recipes/kuairand-mmoe.yaml --out runs/try --seed 2 --set training.epochs=2 --resume",
        "funnelrank train data/recipe.yaml --from runs/monday --out runs/tuesday --set training.epochs=1",
        "funnelrank train models/recipes/kuairand-mmoe.yaml --processes 2",
        "torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29400 \\\n"
        "    -m funnelrank train models/recipes/kuairand-mmoe.yaml --out /shared/run --resume",
    ),
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
@click.option(
    "--processes",
    type=POSITIVE,
    metavar="N",
    help="Train in N processes of this machine, which share every batch; a killed one is started again.  [default: 1]",
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
@click.pass_context
def train(
    context: click.Context,
    recipe: Path,
    out: Path | None,
    start: Path | None,
    seed: int | None,
    overrides: tuple[str, ...],
    resume: bool,
    threads: int | None,
    processes: int | None,
    device: str,
    cache: Path,
    reading_steps: int,
    prefetch: int,
    baselines: bool,
    ablation: bool,
) -> int:
    """Train a recipe (models/recipes/ has some).

    Writes checkpoint.pt, optimiser.pt, recipe.yaml, encoding.npz, kept_rows.npz, metrics.json, history.json and
    report.html.
    """
    # torch reads it once. Rows of a large table lie far apart, and pages of 2 MiB make them faster to find.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import torch

    from models.recipe import RecipeError, load_recipe, with_places
    from models.train import LostProcessError
    from models.train import train as run
    from models.training.outcome import METRICS_FILE, summary_lines
    from models.training.processes.ranks import check_processes, continues_launch, started_by_torchrun

    if threads:
        torch.set_num_threads(threads)
    # The seed is an override like any other, so that the run's recipe contains it.
    if seed is not None:
        overrides = (*overrides, f"training.seed={seed}")
    try:
        read = load_recipe(recipe, overrides)
        folder = out or Path("runs") / read.name
        if started_by_torchrun():
            _check_launched(processes)
        elif processes and processes > 1:
            check_processes(read, processes)
            _launch(processes, threads, context.meta[KeepsWords.META], folder)
            return ExitCode.DONE
        resume = resume or continues_launch()
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
            together=True,
        )
    except RecipeError as error:
        raise with_places(error, recipe, overrides) from None
    except LostProcessError as error:
        click.echo(f"interrupted: {error}; --resume continues from the last checkpoint", err=True)
        return ExitCode.INTERRUPTED
    if not metrics:
        return ExitCode.DONE  # the first process says how the run went
    if finished:
        click.echo(f"{folder} is a finished run; nothing was trained again", err=True)
    click.echo("\n".join(summary_lines(metrics, folder)))
    return ExitCode.DONE


def _check_launched(processes: int | None) -> None:
    """Raise CommandError if torchrun started another number of processes."""
    count = os.environ["WORLD_SIZE"]
    if processes and str(processes) != count:
        raise CommandError(f"torchrun started {count} processes, and --processes is {processes}; leave it out")


def _launch(processes: int, threads: int | None, words: list[str], folder: Path) -> None:
    """Run the same command in several processes, which share the cores of the machine."""
    from models.training.processes.launch import train_in_processes

    if threads is None:
        each = max(1, len(os.sched_getaffinity(0)) // processes)
        words = [*words, "--threads", str(each)]
    train_in_processes(processes, ["-m", "funnelrank", "train", *words], folder)


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
