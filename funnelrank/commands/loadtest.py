"""The `loadtest` command. Its options are in `loadtest.options`, because locust's own command uses them too."""

from typing import Any

import click

from funnelrank.commands.options import PATH, POSITIVE, examples
from funnelrank.exit_codes import ExitCode
from loadtest.options import LONGEST_S, Plan, load_options


def run(**options: Any) -> int:
    """Send an open-loop load to POST /rank and check every answer.

    Requests are due at times fixed beforehand (a Poisson process), even if earlier ones have not been answered, and
    each latency is measured from the time its request was due. So a stall of the server counts for every request that
    had to wait. Exits with 1 if something failed, or if a swapped-in version never answered.
    """
    # locust patches the standard library for gevent at its import, so it must come before every module that opens
    # sockets.
    import locust  # noqa: F401
    import orjson

    from loadtest.outcome import describe
    from loadtest.run import execute, summary_of
    from loadtest.target import require_loopback

    plan = Plan(**options)
    if plan.swap and plan.find_limit:
        raise click.UsageError("--swap and --find-limit exclude each other")
    if plan.swap and (len(set(plan.swap)) < 2 or any("/" not in model for model in plan.swap)):
        raise click.UsageError("--swap needs at least two different NAME/VERSION")
    if not plan.allow_remote:
        require_loopback(plan.url)
    result = execute(plan)
    if plan.summary is not None:
        plan.summary.parent.mkdir(parents=True, exist_ok=True)
        plan.summary.write_bytes(orjson.dumps(summary_of(result), option=orjson.OPT_INDENT_2))
    click.echo(describe(result))
    return ExitCode.FAILED if result.faults() else ExitCode.DONE


_OWN_OPTIONS = [
    click.Option(["--url"], default="http://127.0.0.1:8000", show_default=True, help="The running service."),
    click.Option(
        ["--users"],
        type=POSITIVE,
        default=64,
        show_default=True,
        help="Connections; each has at most one request in flight.",
    ),
    click.Option(
        ["--duration-s"],
        type=click.FloatRange(0, LONGEST_S),
        default=30.0,
        show_default=True,
        help="Measured time.",
    ),
    click.Option(["--report"], type=PATH, help="Write locust's HTML report here."),
    click.Option(["--summary"], type=PATH, help="File to write the summary to, as JSON."),
    click.Option(
        ["--allow-remote"],
        is_flag=True,
        help="Allow a service that is not on this machine's loopback; ask its owner first.",
    ),
]

loadtest = click.Command(
    "loadtest",
    params=[*_OWN_OPTIONS, *load_options()],
    callback=run,
    help=run.__doc__,
    epilog=examples(
        "make run                                            # in one terminal, and in another:",
        "funnelrank loadtest --rate 100 --candidates 200 --duration-s 30 --report reports/loadtest.html",
        "funnelrank loadtest --candidates 200 --find-limit --p99-limit-ms 50",
        "funnelrank loadtest --rate 50 --swap kuairand-mmoe/1 --swap kuairand-mmoe/2 --swap-every-s 3",
    ),
)
