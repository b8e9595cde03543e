"""Owns the command line: `python -m service serve | load | inspect | rollout | run-sample`."""

import argparse
import getpass
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError
from redis.exceptions import RedisError

from service.bundle.registry import Target, folder_of
from service.bundle.verify import BundleRejected, read_manifest
from service.errors import Conflict, InvalidRequest
from service.log import without_password
from service.rollout.rollout import Canary, Past, Rollout, RolloutUnreadable, change_rollout, read_rollout, roll_back
from service.settings import Settings, SettingsError, described


class UsageError(Exception):
    """A command that cannot be done as it was given."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 could not be done (the reason is on stderr), 2 wrong usage, 130 interrupted."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace, Settings], int] = options.command
    try:
        return command(options, Settings.from_environment())
    except SettingsError as error:
        return _failed(str(error))
    except RolloutUnreadable as error:
        return _failed(str(error))
    except (UsageError, BundleRejected, Conflict, InvalidRequest, OSError) as error:
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
        "serve",
        help="serve over HTTP",
        formatter_class=raw,
        epilog=f"{settings}\n\nexample:\n  FUNNELRANK_WORKERS=2 python -m service serve",
    )
    serve.set_defaults(command=_serve)

    load = commands.add_parser(
        "load",
        help="bulk-load users, items and behaviours into Redis; retire a feature schema",
        formatter_class=raw,
        description="Reads users, items and behaviours (.parquet or .csv) in a folder; any of them may be absent.\n"
        "After an interruption the same command goes on where it stopped. A finished load may be run again: rows are\n"
        "replaced, behaviours are merged and never doubled.",
        epilog="example:\n  python -m service load data/ --registry registry --bundle kuairand-mmoe/3\n"
        "  python -m service load --forget 1f0c5a7e9b3d2846    # when no version of that schema will be live again",
    )
    load.add_argument("folder", type=Path, nargs="?", help="folder with users, items and behaviours")
    load.add_argument("--restart", action="store_true", help="begin anew instead of going on after an interruption")
    load.add_argument(
        "--forget", metavar="FINGERPRINT", help="remove all rows of a feature schema; live writes go to it no longer"
    )
    load.add_argument("--registry", type=Path, help="the registry (default: FUNNELRANK_REGISTRY)")
    load.add_argument("--bundle", help="NAME/VERSION whose feature schema is loaded (default: the live one)")
    load.set_defaults(command=_load)

    inspect = commands.add_parser(
        "inspect",
        help="show what Redis holds for a user or item",
        formatter_class=raw,
        epilog="example:\n  python -m service inspect user 712\n  python -m service inspect item 6831",
    )
    inspect.add_argument("entity", choices=("user", "item"))
    inspect.add_argument("id")
    inspect.set_defaults(command=_inspect)

    rollout = commands.add_parser(
        "rollout",
        help="show or change what is live",
        formatter_class=raw,
        description="Without options: shows the document. What is not named keeps its value; workers follow within FUNNELRANK_ROLLOUT_POLL_MS.",
        epilog="example:\n  python -m service rollout                                          # show\n"
        "  python -m service rollout kuairand-mmoe 3                          # make it live for all\n"
        "  python -m service rollout --canary kuairand-mmoe/4 --percent 5     # for 5 % of the users\n"
        "  python -m service rollout --canary none --shadow kuairand-mmoe/5   # no canary; score 5 in the background\n"
        "  python -m service rollout --rollback                               # what was live before",
    )
    rollout.add_argument("name", nargs="?", help="model name")
    rollout.add_argument("version", nargs="?", help="version")
    rollout.add_argument("--canary", metavar="NAME/VERSION", help="version for some of the users, or 'none'")
    rollout.add_argument("--percent", type=float, help="how many of the users get the canary, 0 to 100")
    rollout.add_argument("--shadow", metavar="NAME/VERSION", help="version that scores in the background, or 'none'")
    rollout.add_argument("--rollback", action="store_true", help="make live again what was live before")
    rollout.add_argument("--to", type=int, metavar="REVISION", help="with --rollback: the revision to go back to")
    rollout.add_argument("--history", action="store_true", help="show what was live before, newest first")
    rollout.add_argument("--reason", default="", help="why, for the history")
    rollout.add_argument("--registry", type=Path, help="the registry (default: FUNNELRANK_REGISTRY)")
    rollout.set_defaults(command=_rollout)

    sample = commands.add_parser(
        "run-sample",
        help="serve the sample, with a Redis of its own where none is set",
        formatter_class=raw,
        epilog="example:\n  python -m service run-sample --sample sample/ --port 8000",
    )
    sample.add_argument("--sample", type=Path, default=Path("sample"), help="the sample folder (default: sample)")
    sample.add_argument("--port", type=int, help="port to listen on (default: FUNNELRANK_PORT)")
    sample.set_defaults(command=_run_sample)
    return parser


def _serve(_options: argparse.Namespace, settings: Settings) -> int:
    from service.server.serve import CannotStart, serve

    try:
        return serve(settings)
    except CannotStart as error:
        raise UsageError(str(error)) from None


def _load(options: argparse.Namespace, settings: Settings) -> int:
    from service.store.redis.load import LoadError, load_folder

    registry = options.registry or settings.registry
    redis_url = settings.redis_url.get_secret_value()
    if (options.folder is None) == (options.forget is None):
        raise UsageError("name a folder to load, or --forget FINGERPRINT")
    if options.forget is not None:
        return _forget(options.forget, registry, redis_url)
    target = _target(*options.bundle.partition("/")[::2]) if options.bundle else read_rollout(registry).stable
    manifest = read_manifest(folder_of(registry, target), settings.trusted_keys)
    try:
        load_folder(options.folder, manifest.feature_schema, redis_url, options.restart)
    except LoadError as error:
        raise UsageError(str(error)) from None
    except RedisError as error:
        raise UsageError(
            f"Redis: {without_password(str(error))}; run the same command again: it goes on from there"
        ) from None
    except KeyboardInterrupt:
        _failed("interrupted; run the same command again: it goes on from there")
        return 130
    return 0


def _forget(fingerprint: str, registry: Path, redis_url: str) -> int:
    """Refused for a schema of what is live: its workers would write its rows again."""
    from service.store.redis.schemas import forget_schema, listed

    live = read_rollout(registry)
    for target in filter(None, (live.stable, live.canary, live.shadow)):
        if read_manifest(folder_of(registry, target)).fingerprint == fingerprint:
            raise UsageError(f"{target} is live and has the schema {fingerprint}; take it out of the rollout first")
    try:
        gone = forget_schema(redis_url, fingerprint)
    except KeyError:
        raise UsageError(f"nothing of a schema {fingerprint} is here; Redis has {listed(redis_url)}") from None
    sys.stdout.write(f"{gone} keys of schema {fingerprint} are gone\n")
    return 0


def _inspect(options: argparse.Namespace, settings: Settings) -> int:
    from service.store.redis.inspect import shown

    found, text = shown(settings.redis_url.get_secret_value(), options.entity, options.id)
    sys.stdout.write(text + "\n")
    return 0 if found else 1


def _rollout(options: argparse.Namespace, settings: Settings) -> int:
    registry = options.registry or settings.registry
    if options.to is not None and not options.rollback:
        raise UsageError("--to goes with --rollback")
    if options.rollback:
        document = roll_back(registry, getpass.getuser(), reason=options.reason, to=options.to)
    elif changes := _rollout_changes(options, registry):
        for target in changes.values():
            if target is not None:
                read_manifest(folder_of(registry, target), settings.trusted_keys)
        document = change_rollout(registry, changes, getpass.getuser(), reason=options.reason)
    else:
        document = read_rollout(registry)
    if options.history:
        entries: list[Rollout | Past] = [document, *document.past()]
        sys.stdout.write("\n".join(map(_history_line, entries)) + "\n")
    else:
        sys.stdout.write(document.model_dump_json(indent=2, exclude={"history"}) + "\n")
    return 0


def _rollout_changes(options: argparse.Namespace, registry: Path) -> dict[str, Target | None]:
    """What the options name of the document. Raises UsageError."""
    changes: dict[str, Target | None] = {}
    if options.name is not None:
        if options.version is None:
            raise UsageError("say both: python -m service rollout NAME VERSION")
        changes["stable"] = _target(options.name, options.version)
    if options.canary == "none":
        changes["canary"] = None
    elif options.canary is not None or options.percent is not None:
        changes["canary"] = _canary(options, registry)
    if options.shadow is not None:
        changes["shadow"] = None if options.shadow == "none" else _target(*options.shadow.partition("/")[::2])
    return changes


def _canary(options: argparse.Namespace, registry: Path) -> Canary:
    if options.percent is None:
        raise UsageError("say how many of the users: --percent 5")
    present = read_rollout(registry).canary if options.canary is None else None
    if options.canary is None and present is None:
        raise UsageError("there is no canary whose percentage could change: --canary NAME/VERSION --percent 5")
    name, version = (present.name, present.version) if present else options.canary.partition("/")[::2]
    target = _target(name, version)
    try:
        return Canary(name=target.name, version=target.version, percent=options.percent)
    except ValidationError as error:
        raise UsageError(f"--percent: {error.errors()[0]['msg']}") from None


def _history_line(entry: Rollout | Past) -> str:
    canary = f" canary {entry.canary} {entry.canary.percent:g} %" if entry.canary else ""
    shadow = f" shadow {entry.shadow}" if entry.shadow else ""
    withdrawn = " (withdrawn)" if isinstance(entry, Past) and entry.withdrawn else ""
    why = f": {entry.reason}" if entry.reason else ""
    return f"{entry.revision:>4}  {entry.written_at}  stable {entry.stable}{canary}{shadow}  by {entry.author or '?'}{why}{withdrawn}"


def _run_sample(options: argparse.Namespace, settings: Settings) -> int:
    from service.sample.run import SampleError, run_sample

    try:
        return run_sample(options.sample, settings, options.port or settings.port)
    except SampleError as error:
        raise UsageError(str(error)) from None


def _target(name: str, version: str) -> Target:
    try:
        return Target(name=name, version=version)
    except ValidationError as error:
        raise UsageError(f"{name}/{version}: {error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}") from None
