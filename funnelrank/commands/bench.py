"""The benchmark commands: `bench`, and `bench-` with scale, threads, brownout, behaviours, console, peers, clients."""

from pathlib import Path

import click

from funnelrank.commands.options import PATH, POSITIVE, examples
from funnelrank.exit_codes import ExitCode

SCALE_PARTS = ("training", "processes", "serving", "logs")  # the keys of bench.scale.run.PARTS, which costs an import

_RUNS = click.option(
    "--runs",
    type=PATH,
    default=Path("runs/bench"),
    show_default=True,
    metavar="DIR",
    help="Folder of the short training runs, for reuse.",
)


@click.command(epilog=examples("funnelrank bench --quick", "funnelrank bench --full --out reports/bench.json"))
@click.option("--quick", is_flag=True, help="Fewer sizes and rounds; takes a minute or two.")
@click.option("--full", is_flag=True, help="Also 1,000,000 items in Redis.")
@click.option(
    "--out",
    type=PATH,
    default=Path("reports/bench.json"),
    show_default=True,
    metavar="FILE",
    help="JSON file to write; the plot is written beside it.",
)
@_RUNS
def bench(quick: bool, full: bool, out: Path, runs: Path) -> None:
    """Measure the CPU time of a ranking and, for comparison, of the model alone, an empty route and a plain FastAPI
    server.
    """
    from bench.run import run_bench

    run_bench(quick, full, out, runs)


@click.command(
    epilog=examples(
        "funnelrank bench-scale",
        "funnelrank bench-scale --part training --rows 10000 --rows 1000000",
        "funnelrank bench-scale --part logs --behaviours 1000000 --behaviours 2000000 --behaviours 4000000",
    )
)
@click.option(
    "--part", "parts", multiple=True, type=click.Choice(SCALE_PARTS), help="Measure this part alone. Repeatable."
)
@click.option(
    "--rows",
    multiple=True,
    type=click.IntRange(min=1000),
    metavar="N",
    help="Embedding rows of a table to train. Repeatable; the largest is compared with the smallest.  "
    "[default: 10,000 and 10,000,000]",
)
@click.option("--dim", type=POSITIVE, default=16, show_default=True, help="Embedding width.")
@click.option(
    "--updates",
    type=click.Choice(["lazy_adam", "rowwise_adagrad", "dense"]),
    default="lazy_adam",
    show_default=True,
    help="How training updates the table.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=2),
    default=2,
    show_default=True,
    help="Processes that train one run together, to compare with one.",
)
@click.option("--steps", type=POSITIVE, default=240, show_default=True, help="Training steps of each size.")
@click.option(
    "--keys",
    type=click.IntRange(min=10_000),
    default=2_000_000,
    show_default=True,
    help="Keys of the bundle to serve; a million takes about 400 MB of disk.",
)
@click.option(
    "--behaviours",
    multiple=True,
    type=click.IntRange(min=10_000),
    metavar="N",
    help="Behaviours of a log to encode, a fifth as many impressions. Repeatable; the largest is compared with the "
    "smallest.  [default: 2,500,000, 5,000,000 and 10,000,000; with --full twenty times as many]",
)
@click.option(
    "--memory-gib",
    type=click.FloatRange(min=0.01),
    default=0.5,
    show_default=True,
    help="Memory that encoding a log may take for its rows.",
)
@click.option(
    "--folder", type=PATH, metavar="DIR", help="Folder for the bundles and logs of a run.  [default: temporary files]"
)
@click.option("--full", is_flag=True, help="The stated sizes, where the default of a part is smaller.")
@click.option(
    "--out",
    type=PATH,
    default=Path("reports/scale.json"),
    show_default=True,
    metavar="FILE",
    help="JSON file to write.",
)
def bench_scale(
    parts: tuple[str, ...],
    rows: tuple[int, ...],
    dim: int,
    updates: str,
    processes: int,
    steps: int,
    keys: int,
    behaviours: tuple[int, ...],
    memory_gib: float,
    folder: Path | None,
    full: bool,
    out: Path,
) -> int:
    """Measure how cost grows with embedding rows and with the log, and print every target with PASS or MISS.

    Fails if a target is missed.
    """
    from bench.scale.parts import ScaleSizes
    from bench.scale.run import run_scale

    sizes = ScaleSizes(
        training_rows=rows or ScaleSizes.training_rows,
        dim=dim,
        updates=updates,
        steps=steps,
        processes=processes,
        full=full,
        serving_keys=keys,
        folder=str(folder) if folder else None,
        behaviours=behaviours,
        memory_gib=memory_gib,
    )
    return ExitCode.DONE if run_scale(sizes, parts, out) else ExitCode.FAILED


@click.command(epilog=examples("funnelrank bench-threads --recipe kuairand-mmoe-din"))
@click.option(
    "--recipe", default="kuairand-mmoe-din", show_default=True, help="A recipe that `funnelrank bench` trains."
)
@click.option(
    "--requests", type=POSITIVE, default=300, show_default=True, metavar="N", help="Requests per setting and round."
)
@_RUNS
def bench_threads(recipe: str, requests: int, runs: Path) -> None:
    """Compare workers, ONNX Runtime threads, spinning and scoring in a thread."""
    from bench.threads import compare_threads

    compare_threads(recipe, requests, runs)


@click.command(epilog=examples("funnelrank bench-brownout --candidates 500"))
@click.option("--candidates", type=POSITIVE, default=1000, show_default=True, help="Candidates of a request.")
@click.option("--quick", is_flag=True, help="Short loads, to see that it runs: the figures mean little.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the arrivals.")
@_RUNS
def bench_brownout(candidates: int, quick: bool, seed: int, runs: Path) -> None:
    """Measure who gets an answer in time at 1.8 times the highest rate, with and without a brown-out; takes about three
    minutes.
    """
    from bench.brownout import run_brownout

    run_brownout(candidates, quick, seed, runs)


@click.command(epilog=examples("funnelrank bench-behaviours --candidates 200"))
@click.option("--candidates", type=POSITIVE, default=200, show_default=True, help="Candidates of a request.")
@click.option("--rounds", type=POSITIVE, default=5, show_default=True, help="Rounds of measuring each length.")
@_RUNS
def bench_behaviours(candidates: int, rounds: int, runs: Path) -> None:
    """Measure a ranking of users with 50, 200 and 1,000 behaviours, by SIM's search and by DIN over all of them."""
    from bench.behaviours import measure_behaviours

    measure_behaviours(candidates, rounds, runs)


@click.command(epilog=examples("funnelrank bench-console"))
@click.option("--rounds", type=POSITIVE, default=5, show_default=True, help="Rounds of measuring each call.")
def bench_console(rounds: int) -> int:
    """Measure the CPU time of the calls that the console's pages repeat, as a share of a worker's.

    Fails if a page takes more than 1 %. The sample is served with two workers and a full history of its metrics.
    """
    from bench.console import measure_console

    return ExitCode.DONE if all(verdict.passed for verdict in measure_console(rounds)) else ExitCode.FAILED


@click.command(epilog=examples("funnelrank bench-peers --ray .venv-ray/bin/python --bentoml .venv-bentoml/bin/python"))
@click.option("--bentoml", metavar="PYTHON", help="Interpreter of an environment that has BentoML.")
@click.option("--ray", metavar="PYTHON", help="Interpreter of an environment that has Ray Serve.")
@click.option("--rounds", type=POSITIVE, default=7, show_default=True, help="Rounds in which the servers take turns.")
@click.option(
    "--out",
    type=PATH,
    default=Path("reports/peers.json"),
    show_default=True,
    metavar="FILE",
    help="JSON file to write.",
)
@_RUNS
def bench_peers(bentoml: str | None, ray: str | None, rounds: int, out: Path, runs: Path) -> None:
    """Compare the CPU time of a ranking with the same handler under FastAPI, BentoML and Ray Serve, one worker each.

    The environments of BentoML and Ray Serve also need the packages of requirements/serve.txt.
    """
    from bench.peers import compare_peers

    pythons = {"bentoml": bentoml, "ray": ray}
    compare_peers({name: python for name, python in pythons.items() if python}, rounds, runs, out)


@click.command(epilog=examples("funnelrank bench-clients --candidates 200"))
@click.option(
    "--candidates",
    type=click.IntRange(min=200),
    default=200,
    show_default=True,
    help="Item rows per read with the cache off.",
)
def bench_clients(candidates: int) -> None:
    """Compare our own Redis connections with other clients for a ranking's read, on one Redis and on a cluster."""
    from bench.store_clients import compare_clients

    compare_clients(candidates)
