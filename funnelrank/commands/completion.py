"""The `completion` command."""

import click
from click.shell_completion import get_completion_class

from funnelrank.commands.options import examples


@click.command(
    epilog=examples(
        'eval "$(funnelrank completion bash)"                                     # in ~/.bashrc',
        "funnelrank completion fish > ~/.config/fish/completions/funnelrank.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in a SHELL."""
    kind = get_completion_class(shell)
    assert kind is not None, "click knows the shells of the choice above"
    root = context.find_root().command
    click.echo(kind(root, {}, "funnelrank", "_FUNNELRANK_COMPLETE").source())
