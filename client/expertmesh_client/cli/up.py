"""`expertmesh up`: a whole mesh as processes of this machine."""

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expertmesh_client.cli import options
from expertmesh_client.cli.failures import Failure

if TYPE_CHECKING:
    from expertmesh_client.running import ChildFailed, RunningMesh
    from mesh_wire.tls import ClientTls


def up(
    config: Annotated[Path, typer.Option(envvar="EXPERTMESH_CONFIG", help="The mesh file.")] = Path("mesh.yaml"),
    simulated: Annotated[bool, typer.Option("--simulated", help="Simulated engines in place of real ones.")] = False,
    no_traces: Annotated[bool, typer.Option("--no-traces", help="Keep no traces here.")] = False,
    logs: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the processes' logs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object when all are SERVING.")] = False,
    tls: options.Tls = False,
    ca: options.Ca = None,
    cert: options.Cert = None,
    key: options.Key = None,
    server_name: options.ServerName = None,
) -> None:
    """Start the router and the experts of a mesh file, say when all are SERVING and where, and run until Ctrl-C.

    Unless OTEL_EXPORTER_OTLP_ENDPOINT is set, the mesh's traces are kept here, in memory, for `expertmesh ask --trace`.
    Ends with 0 after Ctrl-C or SIGTERM, and with 1 when a process of the mesh ends by itself.
    """
    encrypted = options.tls_of(tls, ca, cert, key, server_name)
    import asyncio

    from expertmesh_client.stopping import until_told

    traces = not no_traces and "OTEL_EXPORTER_OTLP_ENDPOINT" not in os.environ
    mesh = _up(config, encrypted, as_json, simulated=simulated, traces=traces, logs=logs)
    asyncio.run(until_told(mesh, on_stop=lambda: print("stopping", file=sys.stderr, flush=True)))


async def _up(config: Path, tls: "ClientTls | None", as_json: bool, **wishes: Any) -> None:
    from expertmesh_client.progress import progress_on
    from expertmesh_client.running import ChildFailed, running_mesh

    began = time.monotonic()
    try:
        async with running_mesh(config, tls=tls, progress=progress_on(sys.stderr), **wishes) as mesh:
            print(
                json.dumps(_shape(mesh)) if as_json else "\n".join(_lines(mesh, time.monotonic() - began)), flush=True
            )
            await mesh.broken()
    except ChildFailed as failed:
        raise explained(failed) from None


def explained(failed: "ChildFailed") -> Failure:
    """Return what to say of a process that failed; where it gave no reason, the end of its log is shown first."""
    tail = failed.child.tail(50)
    if failed.child.exit_code is not None and not any(line.startswith("error:") for line in tail):
        print(*tail[-15:], sep="\n", file=sys.stderr)
    return Failure(str(failed))


def _shape(mesh: "RunningMesh") -> dict[str, Any]:
    """Return the object of `up --json`."""
    return {
        "router": {"address": mesh.router.address, "pid": mesh.router.pid},
        "experts": [
            {"name": child.name, "address": child.address, "serves": list(child.experts), "pid": child.pid}
            for child in mesh.experts
        ],
        "traces": {"otlp": mesh.traces.otlp_endpoint, "query": mesh.traces.query_url} if mesh.traces else None,
        "logs": str(mesh.logs),
    }


def _lines(mesh: "RunningMesh", took_s: float) -> list[str]:
    from expertmesh_client.cli.shapes import columns

    rows = [(child.name, child.address, child.state.value, ", ".join(child.experts)) for child in mesh.children]
    lines = [f"all SERVING after {took_s:.0f} s", *(f"  {line}" for line in columns(rows))]
    usual_target = mesh.target.rpartition(":")[2] == options.DEFAULT_TARGET.rpartition(":")[2]
    target = "" if usual_target else f" --target {mesh.target}"
    hint = f'expertmesh ask{target} "What is 7 times 8?"'
    if mesh.traces is not None:
        lines.append(f"  traces    {mesh.traces.otlp_endpoint} takes them, {mesh.traces.query_url} gives them out")
        if mesh.traces.usual:
            hint += " --trace"
        else:
            lines.append("the usual port for traces is taken; for `ask --trace`:")
            lines.append(f"  export OTEL_EXPORTER_OTLP_ENDPOINT={mesh.traces.otlp_endpoint}")
            lines.append(f"  export EXPERTMESH_JAEGER={mesh.traces.query_url}")
    return [*lines, f"  logs      {mesh.logs}", f"ask:  {hint}", "Ctrl-C stops it all"]
