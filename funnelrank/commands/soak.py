"""The long and special load tests: `soak`, `swap-cost`, `republish`."""

import json
from pathlib import Path
from typing import Any

import click

from funnelrank.commands.options import PATH, POSITIVE, ManyValues, examples
from funnelrank.exit_codes import CommandError, ExitCode

_URL = click.option("--url", required=True, help="The running service.")
_TOKEN = click.option("--token", required=True, help="FUNNELRANK_ADMIN_TOKEN of the service.")


@click.command(
    epilog=examples(
        "funnelrank soak --url http://127.0.0.1:8000 --token TOKEN --bundle REGISTRY/NAME/VERSION --minutes 60"
    )
)
@_URL
@_TOKEN
@click.option(
    "--bundle",
    type=PATH,
    required=True,
    metavar="REGISTRY/NAME/VERSION",
    help="The test swaps among all versions of this model.",
)
@click.option("--minutes", type=float, default=60.0, show_default=True, help="Length of the soak.")
@click.option(
    "--clients", type=POSITIVE, default=4, show_default=True, help="Threads that send rankings without a pause."
)
@click.option("--items", type=POSITIVE, default=1000, show_default=True, metavar="N", help="Item ids are 0 to N-1.")
@click.option(
    "--redis-pid", type=int, help="Process id of a Redis on this host that may be paused for a second at times."
)
@click.option("--operate-every-s", type=float, default=2.0, show_default=True, help="Seconds between operators' calls.")
@click.option("--fault-every-s", type=float, default=20.0, show_default=True, help="Seconds between faults.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of all random choices.")
@click.option("--key", default="", help="A caller's key for rankings and events.  [default: the token]")
def soak(**options: Any) -> int:
    """Send rankings, events, swaps, canaries, weight changes and faults together, and check every answer.

    Hostile callers take part: slow readers, heads without bodies, pipelines, trailers, many events of one millisecond.
    Exits with 0 if no answer was wrong, none failed except during a fault, and memory, files and workers did not grow.
    """
    from loadtest.soak.run import run
    from loadtest.soak.state import SoakOptions

    return ExitCode.FAILED if run(SoakOptions(**options)) else ExitCode.DONE


@click.command(
    "swap-cost",
    cls=ManyValues,
    epilog=examples("funnelrank swap-cost --url URL --token T --model kuairand-mmoe --versions 2 3 1 --swaps 100"),
)
@_URL
@_TOKEN
@click.option("--model", required=True, help="Name of the model.")
@click.option("--versions", multiple=True, required=True, metavar="V...", help="Versions to swap among, in turn.")
@click.option("--swaps", type=POSITIVE, default=100, show_default=True, help="Number of swaps.")
@click.option(
    "--calm",
    type=POSITIVE,
    default=2000,
    show_default=True,
    metavar="N",
    help="Rankings before the first swap, for comparison.",
)
@click.option("--candidates", type=POSITIVE, default=200, show_default=True, help="Candidates per ranking.")
@click.option("--pause-s", type=float, default=0.005, show_default=True, help="Pause between two rankings.")
def swap_cost(**options: Any) -> None:
    """Compare the slowest ranking during swaps with the p99 before them."""
    from loadtest.swaps.cost import SwapCost, measure

    click.echo(json.dumps(measure(SwapCost(**options)), indent=2))


@click.command(epilog=examples("funnelrank republish registry/kuairand-mmoe/3 4"))
@click.argument("bundle", type=PATH, metavar="REGISTRY/NAME/VERSION")
@click.argument("version")
def republish(bundle: Path, version: str) -> None:
    """Publish a copy of a bundle under another VERSION."""
    from loadtest.swaps.republish import republish as copy

    try:
        click.echo(copy(bundle, version))
    except FileExistsError as error:
        raise CommandError(str(error)) from None
