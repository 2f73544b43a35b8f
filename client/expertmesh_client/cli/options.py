"""Options that several commands share."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from mesh_wire.tls import ClientTls

_PEM: dict[str, Any] = {"exists": True, "dir_okay": False, "readable": True}

Target = Annotated[
    str,
    typer.Option(envvar="EXPERTMESH_TARGET", metavar="HOST:PORT", help="The router, or an expert to ask it directly."),
]
Timeout = Annotated[float | None, typer.Option(min=0.001, metavar="SECONDS", help="Time for the whole call.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Expert = Annotated[str, typer.Option(metavar="NAME", help="Who answers. Without it the router decides.")]
Precision = Annotated[
    Literal["full", "lower"] | None,
    typer.Option(help="Only an expert itself, or only its twin in lower precision, may answer."),
]
Direct = Annotated[
    bool, typer.Option("--direct", help="The router only decides; the answer comes from its expert, past the router.")
]
Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What to ask; - reads it from standard input.")]

Tls = Annotated[bool, typer.Option("--tls", envvar="EXPERTMESH_TLS", help="Use TLS; implied by the next four.")]
Ca = Annotated[Path | None, typer.Option(envvar="EXPERTMESH_CA", help="Authority to trust, a PEM file.", **_PEM)]
Cert = Annotated[Path | None, typer.Option(envvar="EXPERTMESH_CERT", help="Own certificate, a PEM file.", **_PEM)]
Key = Annotated[Path | None, typer.Option(envvar="EXPERTMESH_KEY", help="Its private key, a PEM file.", **_PEM)]
ServerName = Annotated[
    str | None,
    typer.Option(envvar="EXPERTMESH_SERVER_NAME", metavar="NAME", help="Name in the server's certificate."),
]

TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="EXPERTMESH_TOKEN_FILE",
        metavar="FILE",
        help="A file with the token that says who asks; or EXPERTMESH_TOKEN is the token itself.",
        **_PEM,
    ),
]

MaxTokens = Annotated[int | None, typer.Option(metavar="N", help="At most this many tokens.")]
MinTokens = Annotated[int | None, typer.Option(metavar="N", help="At least this many tokens.")]
Temperature = Annotated[float | None, typer.Option(metavar="0..2", help="0 is greedy decoding.")]
TopP = Annotated[float | None, typer.Option(metavar="0..1", help="Nucleus mass.")]
TopK = Annotated[int | None, typer.Option(metavar="N", help="Draw from the N likeliest tokens.")]
MinP = Annotated[float | None, typer.Option(metavar="0..1", help="Likelihood relative to the likeliest token.")]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Makes the answer reproducible.")]
Stop = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="End before this text; may be given again.")]
Presence = Annotated[float | None, typer.Option("--presence-penalty", metavar="-2..2")]
Frequency = Annotated[float | None, typer.Option("--frequency-penalty", metavar="-2..2")]
Repetition = Annotated[float | None, typer.Option("--repetition-penalty", metavar="0..10", help="1 is none.")]
JsonSchema = Annotated[
    Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="The answer is JSON of this schema.")
]
Regex = Annotated[str | None, typer.Option(metavar="PATTERN", help="The whole answer matches this.")]

DEFAULT_TARGET = "localhost:50050"


def tls_of(
    use: bool, authority: Path | None, certificate: Path | None, key: Path | None, server_name: str | None
) -> "ClientTls | None":
    """Return the TLS that the options ask for; None for plain text."""
    if not (use or authority or certificate or key or server_name):
        return None
    if (certificate is None) != (key is None):
        raise typer.BadParameter("--cert and --key belong together")
    from mesh_wire.tls import ClientTls

    return ClientTls(authority=authority, certificate=certificate, key=key, server_name=server_name)


def token_of(file: Path | None) -> str | None:
    """Return the token that the options or the environment name; None for none.

    No option takes the token itself: everybody on a machine can read everybody's command lines.
    """
    named = file or os.environ.get("EXPERTMESH_TOKEN_FILE")
    if named:
        return Path(named).read_text(encoding="utf-8").strip()
    return os.environ.get("EXPERTMESH_TOKEN") or None


def sampling_of(schema: Path | None = None, regex: str | None = None, **wishes: Any) -> dict[str, Any]:
    """Return the sampling that the options ask for, by field; what was not asked for is absent."""
    sampling = {name: value for name, value in wishes.items() if value not in (None, [])}
    if schema is not None:
        sampling["structured_output"] = {"json_schema": schema.read_text(encoding="utf-8")}
    elif regex is not None:
        sampling["structured_output"] = {"regex": regex}
    return sampling


def quiet_grpc() -> None:
    """Keep gRPC's own log lines off the terminal; errors reach the user as ours."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
