"""The commands `plan`, for a service of any size, and `bench-capacity`, which measures what it is made from."""

from pathlib import Path

import click

from funnelrank.commands.options import PATH, examples
from funnelrank.exit_codes import CommandError

_RATE = click.FloatRange(min=0, min_open=True, max=1e15)
_COUNT = click.FloatRange(min=1, max=1e15)


def _amounts(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    """Read each `NAME=VALUE`, a number. Raises BadParameter."""
    amounts = {}
    for value in values:
        name, _, amount = value.partition("=")
        try:
            amounts[name] = float(amount)
        except ValueError:
            raise click.BadParameter(f"'{value}' is not NAME=VALUE with a number") from None
    return amounts


@click.command(
    epilog=examples(
        "funnelrank plan --users 1e9 --items 1e8 --qps 1e6 --candidates 500",
        "funnelrank plan --users 1e7 --items 1e6 --qps 2000 --candidates 200 --assume zipf=1.1 --simulate",
    )
)
@click.option("--users", type=_COUNT, required=True, metavar="N", help="Users with a row and a sequence.")
@click.option("--items", type=_COUNT, required=True, metavar="N", help="Items with a row.")
@click.option("--qps", type=_RATE, required=True, metavar="N", help="Rankings per second at the peak.")
@click.option("--candidates", type=_COUNT, required=True, metavar="C", help="Candidates of a ranking.")
@click.option(
    "--assume",
    "assumptions",
    multiple=True,
    callback=_amounts,
    metavar="NAME=VALUE",
    help="Change a named assumption. Repeatable.",
)
@click.option(
    "--figures",
    type=PATH,
    metavar="FILE",
    help="What `bench-capacity` measured.  [default: figures of the project's machine]",
)
@click.option("--simulate", is_flag=True, help="Also simulate queues, and the load of the shards.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the simulation.")
def plan(
    users: float,
    items: float,
    qps: float,
    candidates: float,
    assumptions: dict[str, float],
    figures: Path | None,
    simulate: bool,
    seed: int,
) -> None:
    """Print cores, hosts, memory, Redis shards, network, log and cost drivers for a service of any size.

    The plan multiplies what one machine measured. Everything else is a named assumption, and the plan prints them all.
    """
    from loadtest.capacity.figures import SHIPPED, FiguresError, read_figures
    from loadtest.capacity.planning import Demand, assumed, lines_of, plan_of
    from loadtest.capacity.simulation import simulation_lines

    demand = Demand(users, items, qps, candidates)
    try:
        measured = read_figures(figures or SHIPPED)
        chosen = assumed(assumptions)
        made = plan_of(measured, demand, chosen)
    except (FiguresError, ValueError) as error:
        raise CommandError(str(error)) from None
    for line in lines_of(made, measured, demand, chosen):
        click.echo(line)
    if simulate:
        for line in simulation_lines(made, measured, demand, seed):
            click.echo(line)


@click.command(
    epilog=examples(
        "funnelrank bench-capacity --out reports/capacity.json",
        "funnelrank plan --figures reports/capacity.json --users 1e6 --items 1e5 --qps 1000 --candidates 200",
    )
)
@click.option(
    "--out",
    type=PATH,
    default=Path("reports/capacity.json"),
    show_default=True,
    metavar="FILE",
    help="JSON file to write.",
)
@click.option("--quick", is_flag=True, help="Short loads, to see that it runs: the figures mean little.")
def bench_capacity(out: Path, quick: bool) -> None:
    """Measure on this machine what `plan` is made from, and how far the plan is from real runs; about three minutes."""
    from bench.capacity.run import run_capacity
    from loadtest.capacity.planning import check_lines

    figures = run_capacity(out, quick)
    for line in check_lines(figures):
        click.echo(line)
    click.echo(f"written: {out}")
