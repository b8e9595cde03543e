"""The command `bench-trainers`: compares training with torch-rechub and deepctr-torch on equal inputs."""

import sys
from pathlib import Path

import click

from funnelrank.commands.options import PATH, POSITIVE, examples

MODELS = ("mmoe", "ple", "esmm")  # the keys of bench.trainers.recipes.LABELS, which costs an import


@click.command(
    epilog=examples(
        "funnelrank bench-trainers --peers .venv-peers/bin/python",
        "funnelrank bench-trainers --peers .venv-peers/bin/python --model mmoe --seeds 2",
    )
)
@click.option("--peers", required=True, metavar="PYTHON", help="Interpreter of an environment that has both packages.")
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), help="Train this alone. Repeatable.")
@click.option("--seeds", type=POSITIVE, default=5, show_default=True, help="Seeds from 1 on.")
@click.option("--epochs", type=POSITIVE, default=3, show_default=True, help="Epochs; validation selects one of them.")
@click.option(
    "--runs",
    type=PATH,
    default=Path("runs/trainers"),
    show_default=True,
    metavar="DIR",
    help="Folder of inputs and finished trainings, for reuse.",
)
@click.option(
    "--out",
    type=PATH,
    default=Path("reports/trainers.md"),
    show_default=True,
    metavar="FILE",
    help="Markdown file to write.",
)
def bench_trainers(peers: str, models: tuple[str, ...], seeds: int, epochs: int, runs: Path, out: Path) -> None:
    """Train MMoE, PLE and ESMM with this project, torch-rechub and deepctr-torch on KuaiRand's encoded inputs.

    All read the same features, parts and labels, and are measured by the same code: AUC, GAUC, and rows per second of
    processor time on one thread. The packages live in an environment of their own:

    \b
    python3 -m venv .venv-peers
    .venv-peers/bin/pip install torch==2.13.0
    .venv-peers/bin/pip freeze > peers-constraints.txt
    .venv-peers/bin/pip install -c peers-constraints.txt torch-rechub==0.9.0 deepctr-torch==0.3.0
    """
    from bench.trainers.compare import compare_trainers

    ours = dict.fromkeys(("ours", "ours_small_start"), sys.executable)
    theirs = dict.fromkeys(("rechub", "rechub_sliced", "deepctr"), peers)
    compare_trainers(ours | theirs, models or MODELS, seeds, epochs, runs, out)
