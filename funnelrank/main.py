"""The `funnelrank` program: the list of its commands, and the exit code of each error."""

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from funnelrank import __version__
from funnelrank.exit_codes import ExitCode, is_refusal, missing_part


class CommandEntry(NamedTuple):
    """A command: its module, its summary, and how to resume it after Ctrl-C."""

    place: str
    help: str
    resume: str = "the same command begins anew"


_GOES_ON = "run the same command again to continue"

COMMANDS = {
    "serve": CommandEntry("serving:serve", "Serve rankings over HTTP."),
    "load": CommandEntry(
        "serving:load", "Load users, items and behaviours into Redis; retire a feature schema.", _GOES_ON
    ),
    "inspect": CommandEntry("serving:inspect", "Show what Redis holds for a user or an item."),
    "score": CommandEntry("scoring:score", "Rank every user of a table, as the service would.", _GOES_ON),
    "size": CommandEntry("size:size", "Plan the memory of Redis from a schema and counts."),
    "plan": CommandEntry("capacity:plan", "Plan hosts, shards, network and costs of a service of any size."),
    "rollout": CommandEntry("rollout:rollout", "Show or change which versions are live."),
    "rules": CommandEntry("rules:rules", "Show or change the rules that rearrange rankings."),
    "callers": CommandEntry("callers:callers", "Say who may call the service: keys, roles, rates."),
    "run-sample": CommandEntry("serving:run_sample", "Serve the sample; starts a Redis if none is set."),
    "models": CommandEntry("training:models", "List the models: name, paper, tasks."),
    "prepare": CommandEntry("data:prepare", "Make the canonical tables from the files of a public data set."),
    "item-vectors": CommandEntry(
        "data:item_vectors", "Learn item vectors from behaviours by skip-gram, as a column of the items table."
    ),
    "train": CommandEntry(
        "training:train",
        "Train a recipe.",
        "the same command with --resume continues from the last checkpoint",
    ),
    "tune": CommandEntry(
        "comparing:tune",
        "Search the settings of a recipe.",
        "the same command repeats the interrupted trial and continues",
    ),
    "benchmark": CommandEntry(
        "comparing:benchmark",
        "Train recipes over several seeds and tabulate their metrics.",
        "the same command keeps the runs that are finished",
    ),
    "daily": CommandEntry(
        "comparing:daily",
        "Compare daily continued training with training afresh.",
        "the same command keeps the runs that are finished",
    ),
    "predict": CommandEntry("training:predict", "Score a run's impressions, and compare with a running service."),
    "paths": CommandEntry("data:paths", "Measure the paths from click to conversion in an event log."),
    "simulate": CommandEntry("data:simulate", "Train on a simulated world and compare with its known truth."),
    "export": CommandEntry("exporting:export", "Check a run against its ONNX graph and publish it as a bundle."),
    "declare": CommandEntry("exporting:declare", "Publish a version again with features that only rules read."),
    "sign": CommandEntry("exporting:sign", "Sign published bundles."),
    "bench": CommandEntry("bench:bench", "Measure the CPU cost of a ranking."),
    "bench-scale": CommandEntry("bench_scale:bench_scale", "Measure how cost grows with ids, logs and stored rows."),
    "bench-capacity": CommandEntry("capacity:bench_capacity", "Measure what `plan` is made from, and its error."),
    "bench-threads": CommandEntry("bench:bench_threads", "Compare workers, threads and spinning."),
    "bench-brownout": CommandEntry(
        "bench:bench_brownout", "Measure who gets an answer in time under overload, with a brown-out."
    ),
    "bench-behaviours": CommandEntry("bench:bench_behaviours", "Measure a ranking of users with long sequences."),
    "bench-console": CommandEntry("bench:bench_console", "Measure what a console that somebody looks at costs."),
    "bench-peers": CommandEntry("bench:bench_peers", "Compare with the same handler in other frameworks."),
    "bench-trainers": CommandEntry(
        "bench_trainers:bench_trainers", "Compare training with torch-rechub and deepctr-torch.", _GOES_ON
    ),
    "bench-clients": CommandEntry("bench:bench_clients", "Compare Redis clients for a ranking's read."),
    "compact": CommandEntry(
        "loop:compact",
        "Turn the exposure log's files into one table per hour.",
        "the same command continues from there",
    ),
    "join": CommandEntry("loop:join", "Join an exposure log into training tables."),
    "verify-log": CommandEntry("loop:verify_log", "Compute logged exposures again and compare."),
    "replay": CommandEntry("loop:replay", "Rank a logged request again, bit for bit."),
    "why": CommandEntry("loop:why", "Say why the place of an item changed between two logged requests."),
    "nightly": CommandEntry(
        "nightly:nightly", "Lead from the log to a new version: join, train, compare, roll out.", _GOES_ON
    ),
    "forget-user": CommandEntry(
        "erasing:forget_user", "Delete a user from Redis, the exposure log and joined tables.", _GOES_ON
    ),
    "quality": CommandEntry("quality:quality", "Measure what served rankings predicted against what users did."),
    "recalibrate": CommandEntry("quality:recalibrate", "Fit a served version's calibration again, as a new version."),
    "alarm-rates": CommandEntry("quality:alarm_rates", "Measure how often the alarms of `quality` are false."),
    "loadtest": CommandEntry("loadtest:loadtest", "Send an open-loop load and check every answer."),
    "soak": CommandEntry("soak:soak", "Send mixed traffic and faults for hours, and check every answer."),
    "swap-cost": CommandEntry("soak:swap_cost", "Measure how a swap of versions delays callers."),
    "republish": CommandEntry("soak:republish", "Publish a copy of a bundle under another version."),
    "completion": CommandEntry("completion:completion", "Print the completion script of a shell."),
}


class Program(click.Group):
    """A click group that imports a command when it is called, and lists the commands without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from features.nearest import nearest

            if args and args[0] not in COMMANDS and not args[0].startswith("-"):
                ctx.fail(f"No such command '{args[0]}'{nearest(args[0], COMMANDS)}")
            raise

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].place.partition(":")
        command: click.Command = getattr(importlib.import_module(f"funnelrank.commands.{module}"), attribute)
        command.name = cmd_name
        command.short_help = COMMANDS[cmd_name].help
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="\b\nexample:\n"
    "  funnelrank train models/recipes/kuairand-mmoe.yaml\n"
    "  funnelrank export runs/kuairand-mmoe --registry registry\n"
    "  funnelrank serve\n\n"
    "Exit codes of every command: 0 done, 1 refused or failed, 2 wrong usage, 3 interrupted and resumable.",
)
@click.version_option(__version__, prog_name="funnelrank")
def program() -> None:
    """Rank candidates online: train a model, publish it, serve it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: see `ExitCode`.

    `arguments` are those of the process if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result: Any = program.main(words, prog_name="funnelrank", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        entry = COMMANDS.get(next((word for word in words if word in COMMANDS), ""))
        sys.stderr.write(f"interrupted; {entry.resume if entry else CommandEntry('', '').resume}\n")
        return ExitCode.INTERRUPTED
    except Exception as error:
        message = message_of(error)
        if message is None:
            raise
        sys.stderr.write(f"error: {message}\n")
        return ExitCode.FAILED
    return result if isinstance(result, int) else ExitCode.DONE


def message_of(error: Exception) -> str | None:
    """Return the message for an expected error; None for a bug."""
    if isinstance(error, ModuleNotFoundError):
        return missing_part(error)
    if not is_refusal(error):
        return None
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if type(error).__module__.partition(".")[0] != "redis":
        return str(error)
    # A message of the Redis client may contain the URL, so its password is removed.
    from service.log import without_password

    return f"Redis: {without_password(str(error))}"
