"""Shared parts of command-line options: types, repeated options, examples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from service.settings import Settings

PATH = click.Path(path_type=Path)


class Registry(click.Path):
    """A registry: a folder, or an object store, of which the value is this host's copy with the present documents.

    `below` is the number of names that follow: 2 for a bundle, REGISTRY/NAME/VERSION.
    """

    def __init__(self, below: int = 0) -> None:
        super().__init__(path_type=Path)
        self._below = below

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or "://" not in value:
            return super().convert(value, param, ctx)
        from service.addresses.registry_address import registry_folder
        from service.documents import bring_documents

        address, *names = value.rstrip("/").rsplit("/", self._below) if self._below else (value,)
        try:
            folder = registry_folder(address, settings_from_environment().registry_cache)
        except ValueError as error:
            self.fail(f"{value}: {error}", param, ctx)
        bring_documents(folder)
        return folder.joinpath(*names)


REGISTRY = Registry()
BUNDLE = Registry(below=2)
POSITIVE = click.IntRange(min=1)
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def settings_from_environment() -> Settings:
    """The settings of the environment. Writes a line to stderr for each variable that is most likely misspelt.

    Raises SettingsError.
    """
    from service.settings import Settings, unknown_variables
    from service.settings_help import unknown_variable

    for variable in unknown_variables():
        click.echo(f"warning: {unknown_variable(variable)}", err=True)
    return Settings.from_environment()


def examples(*lines: str) -> str:
    """Return the end of a help text with its line breaks; click would otherwise join the lines."""
    return "\b\nexample:\n" + "\n".join(f"  {line}" for line in lines)


def settings_option(example: str) -> Callable[[Decorated], Decorated]:
    """`--set KEY=VALUE`, which changes a recipe."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help=f"Override a setting, as {example}. Repeatable.",
    )


cache_option = click.option(
    "--cache",
    type=PATH,
    default=Path("runs/cache"),
    show_default=True,
    metavar="DIR",
    help="Where encoded data is kept.",
)

device_option = click.option(
    "--device",
    default="cpu",
    show_default=True,
    metavar="NAME",
    help="Where training computes: cpu, cuda, cuda:N, or auto (a GPU if there is one).",
)

registry_option = click.option(
    "--registry",
    type=REGISTRY,
    metavar="DIR|URI",
    help="The registry: a folder, or s3://bucket/prefix, gs://, az://.  [default: FUNNELRANK_REGISTRY]",
)


def chosen_registry(registry: Path | None, settings: Settings) -> Path:
    """Return the registry of an option, or that of the environment, with its present documents. Raises OSError."""
    from service.documents import bring_documents

    if registry is None:
        bring_documents(settings.registry)
    return registry or settings.registry


class KeepsWords(click.Command):
    """A command that keeps the words it was called with, to call itself in other processes."""

    META = "funnelrank.words"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[self.META] = list(args)
        return super().parse_args(ctx, args)


class ManyValues(click.Command):
    """A command whose repeatable options may list values: `--actions cart fav` is `--actions cart --actions fav`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        names = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        return super().parse_args(ctx, _spread(args, names))


def _spread(words: list[str], names: set[str]) -> list[str]:
    spread: list[str] = []
    name = ""
    values = 0
    for word in words:
        if word.startswith("--"):
            name = word if word in names else ""
            values = 0
        elif name:
            spread += [name] if values else []
            values += 1
        spread.append(word)
    return spread
