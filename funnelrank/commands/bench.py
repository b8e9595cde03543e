"""The benchmark commands: `bench`, and `bench-` with threads, brownout, behaviours, console, peers, clients."""

from pathlib import Path

import click

from funnelrank.commands.options import PATH, POSITIVE, examples
from funnelrank.exit_codes import ExitCode

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
