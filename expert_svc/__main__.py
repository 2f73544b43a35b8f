"""`python -m expert_svc`: one expert process."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mesh_wire import mesh_file, process


def command(
    name: Annotated[
        str, typer.Option(envvar="EXPERT_NAME", help="Which expert process of the mesh file; needed if it has several.")
    ] = "",
    config: Annotated[
        Path, typer.Option(envvar="EXPERTMESH_CONFIG", help="The mesh file; EXPERT_<FIELD> replaces a field of it.")
    ] = Path("mesh.yaml"),
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Put a simulated engine in the place of the real one.")
    ] = False,
) -> None:
    """Run one expert process: one vLLM engine, serving one or several experts.

    SIGINT or SIGTERM drains it. Exit codes: 0 stopped, 1 the engine failed to start or died, 2 misconfigured.
    Telemetry goes where OTEL_EXPORTER_OTLP_ENDPOINT says; with `metrics` in the file, Prometheus finds metrics there.
    EXPERTMESH_LOG sets the log's level.
    """
    process.begin()
    from expert_svc.engine import EngineFailed
    from expert_svc.service import main

    try:
        mesh = mesh_file.read(config, experts=[name], simulated=simulated)
        sections = [expert for expert in mesh.experts if expert.name == name or (not name and len(mesh.experts) == 1)]
        if not sections:
            known = ", ".join(expert.name for expert in mesh.experts)
            raise mesh_file.Mistakes([f"--name: {config} has no expert process {name!r}; it has {known}"])
        sys.exit(process.run(main(sections[0], mesh.tickets, mesh.callers, mesh.peers)))
    except mesh_file.Mistakes as error:
        process.say_error(error)
        sys.exit(process.MISCONFIGURED)
    except (EngineFailed, OSError) as error:
        process.say_error(error)
        sys.exit(process.FAILED)


if __name__ == "__main__":
    typer.run(command)
