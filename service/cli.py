"""Owns the command line: `python -m service serve | load | inspect | rollout | run-sample`."""

import argparse
import getpass
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError
from redis.exceptions import RedisError

from service.errors import Conflict
from service.log import without_password
from service.registry import Target, folder_of
from service.rollout import RolloutUnreadable, read_rollout, write_rollout
from service.settings import Settings, SettingsError, described
from service.verify import BundleRejected, read_manifest


class UsageError(Exception):
    """A command that cannot be done as it was given."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 could not be done (the reason is on stderr), 2 wrong usage."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace, Settings], int] = options.command
    try:
        return command(options, Settings.from_environment())
    except SettingsError as error:
        return _failed(str(error))
    except RolloutUnreadable as error:
        return _failed(str(error))
    except (UsageError, BundleRejected, Conflict, OSError) as error:
        return _failed(str(error))
    except RedisError as error:
        return _failed(f"Redis: {without_password(str(error))}")


def _failed(reason: str) -> int:
    sys.stderr.write(f"error: {reason}\n")
    return 1


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m service", description="Ranks candidates online.")
    commands = parser.add_subparsers(required=True, metavar="command")
    settings = f"settings (environment; default; [unit] meaning):\n{described()}"

    serve = commands.add_parser(
        "serve", help="serve over HTTP", formatter_class=raw, epilog=f"{settings}\n\nexample:\n  FUNNELRANK_WORKERS=2 python -m service serve"
    )
    serve.set_defaults(command=_serve)

    load = commands.add_parser(
        "load", help="bulk-load users, items and behaviours into Redis", formatter_class=raw,
        description="Reads users, items and behaviours (.parquet or .csv) in a folder; any of them may be absent.\n"
        "May be run again: rows are replaced, behaviours are merged and never doubled.",
        epilog="example:\n  python -m service load data/ --registry registry --bundle kuairand-mmoe/3",
    )  # fmt: skip
    load.add_argument("folder", type=Path, help="folder with users, items and behaviours")
    load.add_argument("--registry", type=Path, help="the registry (default: FUNNELRANK_REGISTRY)")
    load.add_argument("--bundle", help="NAME/VERSION whose feature schema is loaded (default: the live one)")
    load.set_defaults(command=_load)

    inspect = commands.add_parser(
        "inspect", help="show what Redis holds for a user or item", formatter_class=raw,
        epilog="example:\n  python -m service inspect user 712\n  python -m service inspect item 6831",
    )  # fmt: skip
    inspect.add_argument("entity", choices=("user", "item"))
    inspect.add_argument("id")
    inspect.set_defaults(command=_inspect)

    rollout = commands.add_parser(
        "rollout", help="show or change what is live", formatter_class=raw,
        epilog="example:\n  python -m service rollout                   # show\n  python -m service rollout kuairand-mmoe 3   # make it live",
    )  # fmt: skip
    rollout.add_argument("name", nargs="?", help="model name")
    rollout.add_argument("version", nargs="?", help="version")
    rollout.add_argument("--registry", type=Path, help="the registry (default: FUNNELRANK_REGISTRY)")
    rollout.set_defaults(command=_rollout)

    sample = commands.add_parser(
        "run-sample", help="serve the sample, with a Redis of its own where none is set", formatter_class=raw,
        epilog="example:\n  python -m service run-sample --sample sample/ --port 8000",
    )  # fmt: skip
    sample.add_argument("--sample", type=Path, default=Path("sample"), help="the sample folder (default: sample)")
    sample.add_argument("--port", type=int, help="port to listen on (default: FUNNELRANK_PORT)")
    sample.set_defaults(command=_run_sample)
    return parser


def _serve(_options: argparse.Namespace, settings: Settings) -> int:
    from service.serve import CannotStart, serve

    try:
        return serve(settings)
    except CannotStart as error:
        raise UsageError(str(error)) from None


def _load(options: argparse.Namespace, settings: Settings) -> int:
    from service.store.load import LoadError, load_folder

    registry = options.registry or settings.registry
    target = _target(*options.bundle.partition("/")[::2]) if options.bundle else read_rollout(registry).stable
    manifest = read_manifest(folder_of(registry, target))
    try:
        load_folder(options.folder, manifest.feature_schema, settings.redis_url.get_secret_value())
    except LoadError as error:
        raise UsageError(str(error)) from None
    return 0


def _inspect(options: argparse.Namespace, settings: Settings) -> int:
    from service.store.inspect import shown

    found, text = shown(settings.redis_url.get_secret_value(), options.entity, options.id)
    sys.stdout.write(text + "\n")
    return 0 if found else 1


def _rollout(options: argparse.Namespace, settings: Settings) -> int:
    registry = options.registry or settings.registry
    if options.name is None:
        document = read_rollout(registry)
    elif options.version is None:
        raise UsageError("say both: python -m service rollout NAME VERSION")
    else:
        target = _target(options.name, options.version)
        read_manifest(folder_of(registry, target))
        document = write_rollout(registry, target, author=getpass.getuser())
    sys.stdout.write(document.model_dump_json(indent=2) + "\n")
    return 0


def _run_sample(options: argparse.Namespace, settings: Settings) -> int:
    from service.sample_run import SampleError, run_sample

    try:
        return run_sample(options.sample, settings, options.port or settings.port)
    except SampleError as error:
        raise UsageError(str(error)) from None


def _target(name: str, version: str) -> Target:
    try:
        return Target(name=name, version=version)
    except ValidationError as error:
        raise UsageError(f"{name}/{version}: {error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}") from None
