"""`expertmesh chat`: a conversation in the terminal."""

import json
import secrets
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expertmesh_client.cli import options

if TYPE_CHECKING:
    from expertmesh_client.blocking import Client


def chat(
    target: options.Target = options.DEFAULT_TARGET,
    expert: options.Expert = "",
    precision: options.Precision = None,
    direct: options.Direct = False,
    system: Annotated[str, typer.Option(metavar="TEXT", help="Instructions that stand before the conversation.")] = "",
    as_json: options.Json = False,
    timeout: options.Timeout = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    seed: options.Seed = None,
    tls: options.Tls = False,
    ca: options.Ca = None,
    cert: options.Cert = None,
    key: options.Key = None,
    server_name: options.ServerName = None,
    token_file: options.TokenFile = None,
) -> None:
    """Talk: one line is one turn. Ctrl-C stops an answer, Ctrl-D ends the conversation.

    Without a terminal, turns are read from standard input; with --json each answer is one object on one line.
    """
    encrypted = options.tls_of(tls, ca, cert, key, server_name)
    sampling = options.sampling_of(max_new_tokens=max_tokens, temperature=temperature, seed=seed)
    options.quiet_grpc()
    from expertmesh_client.blocking import Client

    asked: dict[str, Any] = {
        "expert": expert,
        "precision": precision,
        "sampling": sampling or None,
        "conversation": secrets.token_hex(16),  # all its turns go to the replica that remembers the ones before
    }
    messages = [("system", system)] if system else []
    token = options.token_of(token_file)
    with Client(target, tls=encrypted, token=token, timeout_s=timeout, direct=direct) as client:
        while (line := _line()) is not None:
            if line.strip():
                messages += _turn(client, [*messages, ("user", line)], asked, as_json)


def _turn(
    client: "Client", messages: list[tuple[str, str]], asked: dict[str, Any], as_json: bool
) -> list[tuple[str, str]]:
    """Ask one turn and show the answer; returns what it adds to the conversation.

    A turn that fails adds nothing and can be asked again; without a terminal it is the end.
    """
    from expertmesh.v1.generation_pb2 import Delta, RouteChosen
    from expertmesh_client.cli.shapes import answer_shape, route_line
    from mesh_wire.errors import MeshError

    answer = client.chat(messages, **asked)
    try:
        for event in answer.events():
            match event:
                case RouteChosen() if not as_json:
                    print(route_line(event), file=sys.stderr, flush=True)
                case Delta(text=text) if not as_json:
                    print(text, end="", flush=True)
    except MeshError as error:
        if not sys.stdin.isatty():
            raise
        print(f"\nerror: {error}", file=sys.stderr)
        return []
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        if not answer.text:
            print(file=sys.stderr)
            return []
        print(" …", end="")
    if as_json:
        print(json.dumps(answer_shape(answer.text, answer.route, answer.finished, asked["expert"]), ensure_ascii=False))
    else:
        print()
    sys.stdout.flush()
    return [messages[-1], ("assistant", answer.text)]


def _line() -> str | None:
    """Read one turn; None at the end."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None
    import readline  # noqa: F401 - gives input() its editing and history

    piped = not sys.stdout.isatty()
    if piped:  # input() would put its prompt among the answers
        print("> ", end="", file=sys.stderr, flush=True)
    try:
        return input("" if piped else "> ")
    except EOFError:
        print(file=sys.stderr)
        return None
