"""The command `expertmesh`. What is heavy is imported inside commands, so that `--help` comes at once."""

import typer

from expertmesh_client.cli.ask import ask
from expertmesh_client.cli.chat import chat
from expertmesh_client.cli.failures import Commands
from expertmesh_client.cli.fleet import experts
from expertmesh_client.cli.load import load
from expertmesh_client.cli.route import route
from expertmesh_client.cli.token import token
from expertmesh_client.cli.top import top
from expertmesh_client.cli.trace import trace
from expertmesh_client.cli.up import up

app = typer.Typer(
    name="expertmesh",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 1 it failed; 2 the input, the options or the mesh file are wrong; 3 `load` is done, "
    "but its generator did not keep up; 130 Ctrl-C.",
)
app.command()(up)
app.command()(ask)
app.command()(chat)
app.command()(route)
app.command()(experts)
app.command()(top)
app.command()(trace)
app.command()(token)
app.command()(load)


@app.callback()
def expertmesh() -> None:
    """A mesh of specialised language models behind one door."""


def main() -> None:
    """Run the command line."""
    app(prog_name="expertmesh")
