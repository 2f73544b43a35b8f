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
    from expertmesh_client.traces.local import Keeping
    from mesh_wire.tls import ClientTls


def up(
    config: Annotated[Path, typer.Option(envvar="EXPERTMESH_CONFIG", help="The mesh file.")] = Path("mesh.yaml"),
    simulated: Annotated[bool, typer.Option("--simulated", help="Simulated engines in place of real ones.")] = False,
    traces: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep traces in files as well, for `expertmesh trace --from DIR`."),
    ] = None,
    traces_size: Annotated[int, typer.Option(min=1, metavar="MIB", help="At most so much there.")] = 256,
    traces_days: Annotated[float, typer.Option(min=0.001, metavar="DAYS", help="And at most for so long.")] = 7,
    no_traces: Annotated[bool, typer.Option("--no-traces", help="Keep no traces here.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart/--no-restart", help="Start a process again that ends by itself, or end with it.")
    ] = True,
    logs: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the processes' logs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object when all are SERVING.")] = False,
    tls: options.Tls = False,
    ca: options.Ca = None,
    cert: options.Cert = None,
    key: options.Key = None,
    server_name: options.ServerName = None,
) -> None:
    """Start the router and the experts of a mesh file, say when all are SERVING and where, and run until Ctrl-C.

    Unless OTEL_EXPORTER_OTLP_ENDPOINT is set, the mesh's traces are kept here, in memory, for `expertmesh ask --trace`
    and `expertmesh trace`; with --traces, in files as well.
    A process that ends by itself is started again, after a pause that grows from 0.5 to 30 s; a crash loop is named.
    Ends with 0 after Ctrl-C or SIGTERM, with 1 when a process does not start, and with --no-restart when one ends.
    """
    encrypted = options.tls_of(tls, ca, cert, key, server_name)
    import asyncio

    from expertmesh_client.stopping import until_told

    elsewhere = no_traces or "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ
    if traces is not None and elsewhere:
        raise typer.BadParameter("--traces has none to keep: --no-traces or OTEL_EXPORTER_OTLP_ENDPOINT is set")
    keeping = None if traces is None else _keeping(traces, traces_size, traces_days)
    wishes = {"simulated": simulated, "traces": not elsewhere, "keeping": keeping, "logs": logs}
    mesh = _up(config, encrypted, as_json=as_json, restart=restart, **wishes)
    asyncio.run(until_told(mesh, on_stop=lambda: print("stopping", file=sys.stderr, flush=True)))


def _keeping(folder: Path, mebibytes: int, days: float) -> "Keeping":
    from expertmesh_client.traces.local import Keeping

    def say(line: str) -> None:
        print(f"note: {line}", file=sys.stderr, flush=True)

    return Keeping(folder=folder, max_bytes=mebibytes << 20, max_age_s=days * 86_400, say=say)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def _up(config: Path, tls: "ClientTls | None", *, as_json: bool, restart: bool, **wishes: Any) -> None:
    from expertmesh_client.progress import progress_on
    from expertmesh_client.running import ChildFailed, running_mesh
    from expertmesh_client.traces.local import FolderInUse

    began = time.monotonic()
    try:
        async with running_mesh(
            config, tls=tls, token=options.token_of(None), progress=progress_on(sys.stderr), **wishes
        ) as mesh:
            print(
                json.dumps(_shape(mesh)) if as_json else "\n".join(_lines(mesh, time.monotonic() - began)), flush=True
            )
            await (mesh.kept_running(_say) if restart else mesh.broken())
    except ChildFailed as failed:
        raise explained(failed) from None
    except FolderInUse as error:
        raise Failure(str(error)) from None


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
        "traces": _traces_shape(mesh),
        "logs": str(mesh.logs),
    }


def _traces_shape(mesh: "RunningMesh") -> dict[str, Any] | None:
    kept = mesh.traces
    if kept is None:
        return None
    folder = str(kept.folder) if kept.folder is not None else None
    return {"otlp": kept.otlp_endpoint, "query": kept.query_url, "folder": folder}


def _lines(mesh: "RunningMesh", took_s: float) -> list[str]:
    from expertmesh_client.cli.shapes import columns

    rows = [(child.name, child.address, child.state.value, ", ".join(child.experts)) for child in mesh.children]
    lines = [f"all SERVING after {took_s:.0f} s", *(f"  {line}" for line in columns(rows))]
    usual_target = mesh.target.rpartition(":")[2] == options.DEFAULT_TARGET.rpartition(":")[2]
    target = "" if usual_target else f" --target {mesh.target}"
    hint = f'expertmesh ask{target} "What is 7 times 8?"'
    if mesh.traces is not None:
        lines.append(f"  traces    {mesh.traces.otlp_endpoint} takes them, {mesh.traces.query_url} gives them out")
        if mesh.traces.folder is not None:
            lines.append(
                f"            and keeps them in {mesh.traces.folder}; expertmesh trace --from {mesh.traces.folder}"
            )
        if mesh.traces.usual:
            hint += " --trace"
        else:
            lines.append("the usual port for traces is taken; for `ask --trace`:")
            lines.append(f"  export OTEL_EXPORTER_OTLP_ENDPOINT={mesh.traces.otlp_endpoint}")
            lines.append(f"  export EXPERTMESH_JAEGER={mesh.traces.query_url}")
    return [*lines, f"  logs      {mesh.logs}", f"ask:  {hint}", "Ctrl-C stops it all"]
