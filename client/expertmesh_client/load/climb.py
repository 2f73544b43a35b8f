"""A ladder of loads from its first rung to its last."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Any

from expertmesh_client.aio import AsyncClient
from expertmesh_client.load.ceiling import Ceiling
from expertmesh_client.load.crew import crew_of
from expertmesh_client.load.plan import Asks, Job, Rung
from expertmesh_client.load.problems import BadLoad
from expertmesh_client.load.result import result_of
from expertmesh_client.load.show import Show, Silent
from mesh_wire.errors import Foreign, Unsupported

ASK_WITHIN_S = 5.0


async def acquainted(job: Job) -> Job:
    """Return the job with what its target says of the fleet; an expert says nothing of one.

    Raises:
        MeshError: the target is not there, or refuses.
        BadLoad: it cannot do what the job wants.
    """
    async with AsyncClient(job.target, tls=job.tls, token=job.token) as client:
        try:
            fleet = await client.experts(timeout_s=ASK_WITHIN_S)
        except (Unsupported, Foreign) as error:
            if error.code.name != "UNIMPLEMENTED":
                raise
            if job.over == "direct":
                raise BadLoad(f"--over direct: {job.target} is an expert, and only a router decides") from None
            return job
    experts = tuple(expert.name for expert in fleet.experts)
    if job.expert and job.expert not in experts:
        raise BadLoad(f"--expert: nobody in the fleet is called {job.expert}; there are {', '.join(experts)}")
    return job.model_copy(update={"experts": experts, "generalist": fleet.generalist})


async def climb(
    job: Job,
    rungs: Sequence[Rung],
    on_result: Callable[[dict[str, Any]], None],
    *,
    show: Show | None = None,
    ceiling: Ceiling | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Put each rung's load on the target, one after the other.

    Args:
        on_result: is given each rung's result as soon as it is there.
        stop: ends the ladder when it is set; the rung that runs gives what it has, marked as not complete.

    Raises:
        BadLoad: the job is wrong.
        LoadFailed: the target takes no connections, or a worker ended; results so far have been given.
    """
    shown = show or Silent(sys.stderr)
    Asks(job)  # whatever is wrong with it is said before anything starts
    async with crew_of(job) as crew:
        stopping = asyncio.create_task(_stop(crew.stop, stop or asyncio.Event()))
        try:
            for place, rung in enumerate(rungs, start=1):
                if stop is not None and stop.is_set():
                    return
                shown.begin(rung, f"{place} of {len(rungs)}")
                recorder = await crew.run(rung, shown.progress)
                if recorder.window_s > 0:
                    on_result(result_of(rung, recorder, job, ceiling))
        finally:
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)


async def _stop(act: Callable[[], None], when: asyncio.Event) -> None:
    await when.wait()
    act()
