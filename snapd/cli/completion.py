"""snapvol completion: what makes a shell complete snapvol's commands and options."""

import click
from click import shell_completion

VARIABLE = "_SNAPVOL_COMPLETE"
"""The shell's script sets it to ask for completions."""


_EPILOG = """\b
bash  eval "$(snapvol completion bash)" in ~/.bashrc
zsh   eval "$(snapvol completion zsh)" in ~/.zshrc
fish  snapvol completion fish > ~/.config/fish/completions/snapvol.fish
"""


@click.command(epilog=_EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes a SHELL complete commands and options."""
    found = shell_completion.get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"{shell} is not supported")
    click.echo(found(context.find_root().command, {}, "snapvol", VARIABLE).source())
