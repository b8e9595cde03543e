"""The commands that make or read data: `prepare`, `item-vectors`, `paths`, `simulate`."""

from collections.abc import Callable
from pathlib import Path

import click

from funnelrank.commands.options import PATH, POSITIVE, ManyValues, examples, settings_option
from funnelrank.exit_codes import CommandError

SIMULATORS = ["selection", "funnel", "position", "transfer", "delay", "watch_time", "batch_norm"]


@click.group(
    epilog=examples(
        "funnelrank prepare kuairand --source DOWNLOADS/kuairand --out data/kuairand",
        "funnelrank prepare census --source DOWNLOADS/census --out data/census",
        "funnelrank prepare taobao --source DOWNLOADS/taobao --out data/taobao",
        "funnelrank prepare sample --source data/kuairand --out sample/kuairand",
        "funnelrank prepare small --source sample/kuairand --out data/kuairand-small",
    )
)
def prepare() -> None:
    """Make the canonical tables (parquet) that training and the Redis loader read."""


def _prepares(name: str, title: str) -> None:
    """Add the command for one public data set, which runs `prepare_NAME` of `models.prepare.NAME`."""

    def command(source: Path, out: Path) -> None:
        import importlib

        made: Callable[[Path, Path], dict[str, int]] = getattr(
            importlib.import_module(f"models.prepare.{name}"), f"prepare_{name}"
        )
        _report(out, lambda unfinished: made(source, unfinished))

    options = [
        click.Option(["--source"], type=PATH, required=True, help="Folder of the original files."),
        click.Option(["--out"], type=PATH, required=True, help="Folder to write the tables to."),
    ]
    example = examples(f"funnelrank prepare {name} --source DOWNLOADS/{name} --out data/{name}")
    help_text = f"{title}: original files -> canonical tables."
    prepare.add_command(click.Command(name, params=list(options), callback=command, help=help_text, epilog=example))


_prepares("kuairand", "KuaiRand-Pure")
_prepares("census", "Census-Income (KDD)")
_prepares("taobao", "Taobao's UserBehavior")


@prepare.command(epilog=examples("funnelrank prepare sample --source data/kuairand --out sample/kuairand"))
@click.option(
    "--source", type=PATH, default=Path("data/kuairand"), show_default=True, help="Folder of the canonical tables."
)
@click.option("--out", type=PATH, default=Path("sample/kuairand"), show_default=True, help="Folder to write to.")
@click.option(
    "--max-mb", type=float, default=7.5, show_default=True, help="Largest total size of the parquet files in MB."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Seed for the choice of users.")
def sample(source: Path, out: Path, max_mb: float, seed: int) -> None:
    """Cut canonical tables to a size: a seeded subset of whole users."""
    from models.prepare.sample import sample_tables

    _report(out, lambda unfinished: sample_tables(source, unfinished, int(max_mb * 1e6), seed))


@prepare.command(
    epilog=examples(
        "funnelrank prepare small --source sample/kuairand --out data/kuairand-small",
        "funnelrank prepare small --source sample/census --out data/census-small",
    )
)
@click.option("--source", type=PATH, required=True, help="Folder of KuaiRand's or Census's canonical tables.")
@click.option("--out", type=PATH, required=True, help="Folder to write to.")
def small(source: Path, out: Path) -> None:
    """Cut canonical tables to 20,000 training impressions in lists, for the recipes on small data."""
    from models.prepare.small import small_tables

    _report(out, lambda unfinished: small_tables(source, unfinished))


def _report(out: Path, make: Callable[[Path], dict[str, int]]) -> None:
    """Make tables in a folder, move them to `out`, and print their rows and sizes. Raises CommandError."""
    from models.prepare.write import whole_folder

    try:
        with whole_folder(out) as unfinished:
            rows = make(unfinished)
    except (FileNotFoundError, ValueError) as error:
        raise CommandError(str(error)) from None
    for name, count in rows.items():
        path = out / f"{name}.parquet"
        click.echo(f"{path}: {count:,} rows, {path.stat().st_size / 1e6:.2f} MB")


@click.command(
    epilog=examples(
        "funnelrank item-vectors models/recipes/kuairand-dupn.yaml --out data/kuairand/items-w2v.parquet",
        "funnelrank item-vectors my.yaml --out data/items-w2v.parquet --width 64 --min-count 20",
    )
)
@click.argument("recipe", type=PATH, metavar="RECIPE.yaml")
@click.option("--out", type=PATH, required=True, metavar="ITEMS.parquet", help="The items table to write.")
@click.option("--column", default="w2v", show_default=True, metavar="NAME", help="Column of the vectors.")
@click.option(
    "--width", type=click.IntRange(1, 4096), default=32, show_default=True, metavar="N", help="Numbers of a vector."
)
@click.option(
    "--window", type=POSITIVE, default=5, show_default=True, metavar="N", help="Items on each side that are neighbours."
)
@click.option(
    "--min-count",
    type=POSITIVE,
    default=5,
    show_default=True,
    metavar="N",
    help="Behaviours that an item needs to get a vector; others have null.",
)
@click.option("--epochs", type=POSITIVE, default=5, show_default=True, metavar="N", help="Passes over the behaviours.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=1, show_default=True, metavar="N", help="Seed.")
@settings_option("data.dir=sample/kuairand")
def item_vectors(
    recipe: Path,
    out: Path,
    column: str,
    width: int,
    window: int,
    min_count: int,
    epochs: int,
    seed: int,
    overrides: tuple[str, ...],
) -> None:
    """Learn a vector per item from a recipe's behaviours, and write its items table with them.

    A user's items in the order of time are a sentence, from which skip-gram with negative sampling (word2vec) learns.
    Behaviours after the training part of the recipe's split are left out. A recipe reads the column as a feature
    `{name: w2v, type: vector, width: 32}`. The extra `vectors` has the library (gensim).
    """
    from models.item_vectors.column import write_item_vectors
    from models.item_vectors.skip_gram import SkipGram
    from models.recipe import RecipeError, load_recipe, with_places

    try:
        read = load_recipe(recipe, overrides)
        lines = write_item_vectors(read, out, column, SkipGram(width, window, min_count, epochs, seed))
    except RecipeError as error:
        raise with_places(error, recipe, overrides) from None
    click.echo("\n".join(lines))


@click.command(
    cls=ManyValues,
    epilog=examples(
        "funnelrank paths events.parquet --action behavior --time timestamp --click pv --actions cart fav \\",
        "    --conversion buy --out paths",
    ),
)
@click.argument("events", type=PATH, metavar="EVENTS.parquet")
@click.option("--user", default="user_id", show_default=True, metavar="COLUMN", help="Column of the user.")
@click.option("--item", default="item_id", show_default=True, metavar="COLUMN", help="Column of the item.")
@click.option("--action", default="action", show_default=True, metavar="COLUMN", help="Column of the action.")
@click.option("--time", default="time_ms", show_default=True, metavar="COLUMN", help="Column of the time.")
@click.option("--click", default="click", show_default=True, metavar="VALUE", help="Value that is a click.")
@click.option(
    "--actions",
    multiple=True,
    required=True,
    metavar="VALUE...",
    help="Actions to try between click and conversion, at most 5.",
)
@click.option("--conversion", required=True, metavar="VALUE", help="Value that is a conversion.")
@click.option("--out", type=PATH, metavar="PATH", help="Also write PATH.md, PATH.csv and PATH.html.")
def paths(
    events: Path,
    user: str,
    item: str,
    action: str,
    time: str,
    click: str,  # the option's name, which hides the library of the same name in here
    actions: tuple[str, ...],
    conversion: str,
    out: Path | None,
) -> None:
    """Measure the paths click -> action -> conversion in an event log (.parquet or .csv, one row per event).

    Prints the rates along the paths and the sparsity that each choice of actions removes.
    """
    from models.reports.paths import Columns
    from models.reports.paths_page import measure_paths

    columns = Columns(user, item, action, time)
    print(measure_paths(events, columns, click, list(actions), conversion, out))


@click.command(
    epilog=examples(
        "funnelrank simulate selection --seeds 3 --out docs/simulators.md",
        "funnelrank simulate position --tables data/simulated-position",
    )
)
@click.argument("name", type=click.Choice(SIMULATORS))
@click.option("--seeds", type=POSITIVE, default=3, show_default=True, metavar="N", help="Seeds 1 to N.")
@click.option(
    "--size", type=float, default=1.0, show_default=True, metavar="X", help="Factor for the number of impressions."
)
@click.option("--out", type=PATH, metavar="PAGE.md", help="Also write the section into this page.")
@click.option("--tables", type=PATH, metavar="DIR", help="Only write the tables of the world, seed 1.")
def simulate(name: str, seeds: int, size: float, out: Path | None, tables: Path | None) -> None:
    """Simulate a world with known probabilities, train models on it and compare them with the truth.

    Prints mean and deviation over the seeds.
    """
    from models.simulators.run import simulate as run
    from models.simulators.run import write_log

    if tables is not None:
        try:
            write_log(name, size, tables)
        except ValueError as error:
            raise CommandError(str(error)) from None
        click.echo(f"tables: {tables}")
        return
    click.echo(run(name, seeds, size, out))
