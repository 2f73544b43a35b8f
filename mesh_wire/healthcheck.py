"""`python -m mesh_wire.healthcheck`: does a server of the mesh serve? For containers and shell scripts.

It asks by `grpc.health.v1`, as any client would. Exit codes: 0 it serves, 1 it does not, 2 asked wrongly.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh_wire.tls import ClientTls

SERVES, DOES_NOT, ASKED_WRONGLY = 0, 1, 2  # exit codes


def check(target: str, service: str = "", timeout_s: float = 3.0, tls: ClientTls | None = None) -> str | None:
    """Return why `target` does not serve `service`; None if it does. An empty service means the whole server."""
    options = [
        ("grpc.enable_http_proxy", 0),
        *(tls.options() if tls else []),
    ]  # a proxy is not on the way to a neighbour
    channel = grpc.secure_channel(target, tls.credentials(), options) if tls else grpc.insecure_channel(target, options)
    with channel:
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            stub: Any = health_pb2_grpc.HealthStub(channel)  # its published types lack its methods
            answer = stub.Check(request, timeout=timeout_s)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return f"{target} has no service {service}"
            return f"{target}: {error.code().name}: {error.details()}"
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return None
    return f"{target}: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check once; returns the exit code."""
    # argparse: this runs every few seconds, and typer would double the time that it takes.
    parser = argparse.ArgumentParser(prog="python -m mesh_wire.healthcheck", description="Ask a server if it serves.")
    parser.add_argument("--target", default="localhost:50050", metavar="HOST:PORT", help="default: %(default)s")
    parser.add_argument("--service", default="", metavar="NAME", help="one service by its full name; default: all")
    parser.add_argument("--timeout", type=float, default=3.0, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--tls", action="store_true", help="use TLS; each of the following does too")
    parser.add_argument(
        "--authority", type=Path, metavar="PEM", help="whom to trust; default: the system's authorities"
    )
    parser.add_argument(
        "--certificate", type=Path, metavar="PEM", help="the caller's own, where the server asks for one"
    )
    parser.add_argument("--key", type=Path, metavar="PEM", help="its private key")
    parser.add_argument(
        "--server-name", metavar="NAME", help="in the server's certificate, where it is not the target's"
    )
    given = parser.parse_args(arguments)
    if (given.certificate is None) != (given.key is None):
        parser.error("--certificate and --key belong together")
    tls = None
    if given.tls or given.authority or given.certificate or given.server_name:
        tls = ClientTls(
            authority=given.authority, certificate=given.certificate, key=given.key, server_name=given.server_name
        )
    try:
        trouble = check(given.target, given.service, given.timeout, tls)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    if trouble:
        print(trouble, file=sys.stderr)
        return DOES_NOT
    return SERVES


if __name__ == "__main__":
    sys.exit(main())
