"""For `locust -f loadtest/locustfile.py`: the same users, checks and pacing under locust's own command and web page.

`funnelrank loadtest` is the shorter way. This one adds locust's live charts. The options of the load come beside
locust's.
"""

from typing import Any

import click
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtest.options import Plan, load_options
from loadtest.run import prepare
from loadtest.target import require_loopback
from loadtest.users import PhasedShape, RankingUser


class WebUser(RankingUser):
    """The user class for locust, which finds it and the imported shape in this module; `set_up` gives both the load."""

    abstract = False


@events.init_command_line_parser.add_listener
def add_flags(parser: LocustArgumentParser) -> None:
    """Add the load's options to those of locust."""
    for option in load_options():
        if option.is_flag:
            parser.add_argument(*option.opts, action="store_true", help=option.help)
        else:
            action = "append" if option.multiple else "store"
            parser.add_argument(*option.opts, action=action, metavar=option.metavar, help=option.help)
    parser.add_argument(
        "--allow-remote",
        action="store_true",
        help="allow a service that is not on this machine's loopback; ask its owner first",
    )


def read_options(options: Any) -> dict[str, Any]:
    """Return the values of the load's options, by name. Raises click.UsageError."""
    command = click.Command("locust", params=list(load_options()))
    words: list[str] = []
    for option in command.params:
        value = getattr(options, str(option.name))
        if value is True:
            words.append(option.opts[0])
        elif value not in (None, False):
            for one in value if isinstance(value, list) else [value]:
                words += [option.opts[0], one]
    return command.make_context("locust", words).params


@events.init.add_listener
def set_up(environment: Environment, **_: Any) -> None:
    """Prepare a run; called again after each run, so that the web page can start another."""
    options = environment.parsed_options
    assert options is not None, "locust reads the flags before it fires this event"
    url = environment.host or "http://127.0.0.1:8000"
    if not options.allow_remote:
        require_loopback(url)
    run_time_s = float(options.run_time or 30)
    load = prepare(
        Plan(
            url=url,
            users=options.num_users or 64,
            duration_s=run_time_s,
            report=None,
            summary=None,
            allow_remote=options.allow_remote,
            **read_options(options),
        )
    )
    WebUser.load = load
    WebUser.host = url
    if isinstance(environment.shape_class, PhasedShape):
        environment.shape_class.load = load


events.test_stop.add_listener(set_up)
