"""The `bench-scale` command: measures how cost grows with ids, with the log and with the rows in Redis."""

from pathlib import Path

import click

from funnelrank.commands.options import PATH, POSITIVE, examples
from funnelrank.exit_codes import ExitCode

# The keys of bench.scale.run.PARTS, whose import takes a while.
SCALE_PARTS = ("training", "processes", "serving", "logs", "redis")


@click.command(
    epilog=examples(
        "funnelrank bench-scale",
        "funnelrank bench-scale --part training --rows 10000 --rows 1000000",
        "funnelrank bench-scale --part logs --behaviours 1000000 --behaviours 2000000 --behaviours 4000000",
        "funnelrank bench-scale --part redis --users 100000 --items 40000",
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
    metavar="GIB",
    help="Memory that encoding a log may take for its rows.  [default: 0.5; with --full 1]",
)
@click.option(
    "--users",
    type=click.IntRange(min=1000),
    default=20_000,
    show_default=True,
    help="Users with 50 behaviours each in a Redis Cluster; with --full 5,000,000, halved until 12 GiB are enough.",
)
@click.option(
    "--items",
    type=click.IntRange(min=1000),
    default=10_000,
    show_default=True,
    help="Items in that cluster; with --full 2,000,000.",
)
@click.option("--slots", type=POSITIVE, default=60, show_default=True, help="Slots of that cluster that move.")
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
    memory_gib: float | None,
    users: int,
    items: int,
    slots: int,
    folder: Path | None,
    full: bool,
    out: Path,
) -> int:
    """Measure how cost grows with embedding rows, with the log and with the rows in Redis, and print every target with
    PASS or MISS.

    Fails if a target is missed.
    """
    from bench.scale.parts import FULL_MEMORY_GIB, ScaleSizes
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
        memory_gib=memory_gib or (FULL_MEMORY_GIB if full else ScaleSizes.memory_gib),
        redis_users=users,
        redis_items=items,
        redis_slots=slots,
    )
    return ExitCode.DONE if run_scale(sizes, parts, out) else ExitCode.FAILED
