"""The `size` command: plan the memory of Redis from a feature schema and counts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from funnelrank.commands.options import PATH, chosen_registry, examples, registry_option, settings_from_environment
from funnelrank.exit_codes import CommandError

if TYPE_CHECKING:
    from features import FeatureSchema
    from service.settings import Settings

_COUNT = click.IntRange(min=0)
_CHARACTERS = click.IntRange(min=1, max=256)


@click.command(
    epilog=examples(
        "funnelrank size --users 1000000 --items 200000 --behaviours-per-user 50     # of the live version",
        "funnelrank size --schema registry/kuairand-mmoe/3/manifest.json --users 1000000 --items 200000",
    )
)
@click.option(
    "--schema",
    type=PATH,
    metavar="FILE",
    help="A bundle's manifest.json, or a feature schema as JSON or YAML.  [default: the live version's]",
)
@click.option("--users", type=_COUNT, required=True, metavar="N", help="Users with a row and a sequence.")
@click.option("--items", type=_COUNT, required=True, metavar="N", help="Items.")
@click.option("--behaviours-per-user", type=_COUNT, default=0, metavar="L", help="Behaviours in a sequence.")
@click.option("--shown-per-user", type=_COUNT, default=0, metavar="S", help="Shown items, if rules count them.")
@click.option(
    "--scenes", type=_COUNT, default=1, show_default=True, metavar="N", help="Scenes, if counters are kept by scene."
)
@click.option(
    "--cells-per-user",
    type=_COUNT,
    metavar="K",
    help="Values of an item feature by which counters count a user's events.  [default: all `values` of the schema]",
)
@click.option("--user-id-characters", type=_CHARACTERS, help="Length of a user id.  [default: that of N]")
@click.option("--item-id-characters", type=_CHARACTERS, help="Length of an item id.  [default: that of N]")
@click.option(
    "--allocator",
    type=click.Choice(["jemalloc", "jemalloc-16", "libc"]),
    default="jemalloc",
    show_default=True,
    help="jemalloc: Redis' own builds and images; jemalloc-16: Debian's and Ubuntu's packages (INFO: mem_allocator).",
)
@registry_option
def size(
    schema: Path | None,
    users: int,
    items: int,
    behaviours_per_user: int,
    shown_per_user: int,
    scenes: int,
    cells_per_user: int | None,
    user_id_characters: int | None,
    item_id_characters: int | None,
    allocator: str,
    registry: Path | None,
) -> None:
    """Print the memory that Redis needs (used_memory), and a maxmemory with room for its buffers.

    Of a schema with counters every user, item and scene is taken to have some. If FUNNELRANK_USER_TTL_S or
    FUNNELRANK_BEHAVIOUR_TTL_S is set, keys that expire are counted with their times.
    """
    from features.layouts import Layouts
    from service.store.redis.memory import ALLOCATORS, HEADROOM, StoredCounts, memory_of

    settings = settings_from_environment()
    layouts = Layouts.of(_schema_of(schema, registry, settings))
    counts = StoredCounts(
        users=users,
        items=items,
        behaviours=behaviours_per_user,
        shown=shown_per_user,
        scenes=scenes,
        cells=cells_per_user,
        user_id_characters=user_id_characters or len(str(users)),
        item_id_characters=item_id_characters or len(str(items)),
        user_rows_expire=settings.user_ttl_s > 0,
        behaviours_expire=settings.behaviour_ttl_s > 0,
    )
    memory = memory_of(layouts, counts, ALLOCATORS[allocator])
    for group in memory.groups:
        click.echo(
            f"{group.name:<14}{group.keys:>13,} keys {group.each:>11,.0f} B {group.keys * group.each / 1e6:>13,.1f} MB"
        )
    click.echo(f"{'tables':<14}{memory.tables / 1e6:>46,.1f} MB")
    click.echo(f"{'used_memory':<14}{memory.total / 1e6:>46,.1f} MB")
    click.echo(f"{'maxmemory':<14}{memory.total * HEADROOM / 1e6:>46,.1f} MB")
    if layouts.behaviour is not None and behaviours_per_user > layouts.kept_behaviours:
        click.echo(f"of a longer sequence the newest {layouts.kept_behaviours} behaviours are kept", err=True)


def _schema_of(path: Path | None, registry: Path | None, settings: Settings) -> FeatureSchema:
    """Return the schema of a file, or of the live version. Raises CommandError."""
    from pydantic import ValidationError

    from features import FeatureSchema
    from features.files.strict_json import parse_json
    from features.files.strict_yaml import YamlError, read_yaml
    from service.bundle.registry import folder_of
    from service.bundle.verify import read_manifest
    from service.rollout.rollout import read_rollout

    if path is None:
        registry = chosen_registry(registry, settings)
        return read_manifest(folder_of(registry, read_rollout(registry).stable), settings.trusted_keys).feature_schema
    try:
        document = parse_json(path.read_bytes()) if path.suffix == ".json" else read_yaml(path).value
    except YamlError as error:
        raise CommandError(str(error)) from None
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{path}: not JSON: {error}") from None
    if isinstance(document, dict) and "feature_schema" in document:
        document = document["feature_schema"]
    try:
        return FeatureSchema.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise CommandError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
