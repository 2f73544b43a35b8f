"""A mesh as processes of this machine, for as long as a block runs."""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from expertmesh_client.child import Child, State
from expertmesh_client.progress import Progress, Silent
from expertmesh_client.readiness import experts_found, serving_at
from expertmesh_client.restarts import Pauses, kept_running
from expertmesh_client.tokens import Token
from expertmesh_client.traces.local import Keeping, LocalTraces, local_traces
from mesh_wire import mesh_file
from mesh_wire.settings import ExpertSection, RouterSection
from mesh_wire.tls import ClientTls

BEYOND_DRAIN_S = 10.0  # for an engine to close, after the open streams have had their time
SPANS_EVERY_MS = "200"  # a person waits for the trace
SHOW_EVERY_S = 0.5


class ChildFailed(Exception):
    """A process of the mesh ended, or did not become ready."""

    def __init__(self, child: Child, message: str) -> None:
        super().__init__(f"{message} (log: {child.log})")
        self.child = child


@dataclass(frozen=True)
class RunningMesh:
    """A mesh that is up."""

    router: Child
    experts: Sequence[Child]
    logs: Path
    traces: LocalTraces | None
    env: Mapping[str, str]

    @property
    def target(self) -> str:
        """Where to ask."""
        return self.router.address

    @property
    def children(self) -> list[Child]:
        return [*self.experts, self.router]

    async def broken(self) -> None:
        """Wait until a process ends, which none should.

        Raises:
            ChildFailed: one has.
        """
        await _first_failure(_never_ends(child) for child in self.children)

    async def kept_running(self, say: Callable[[str], None], pauses: Pauses = Pauses()) -> None:  # noqa: B008 - frozen
        """Start each process again that ends, after a pause that grows; runs until it is cancelled.

        Args:
            say: gets a line for each end, for each return, and for a crash loop.
        """

        async def start(child: Child) -> None:
            await child.start(self.env)

        async with asyncio.TaskGroup() as keepers:
            for child in self.children:
                keepers.create_task(kept_running(child, start, _serves, say, pauses))


@asynccontextmanager
async def running_mesh(
    config: Path,
    *,
    simulated: bool = False,
    traces: bool = True,
    keeping: Keeping | None = None,
    logs: Path | None = None,
    env: Mapping[str, str] = os.environ,
    tls: ClientTls | None = None,
    token: Token | None = None,
    progress: Progress | None = None,
    start_within_s: float = 900.0,
) -> AsyncIterator[RunningMesh]:
    """Start the mesh of a file, wait until all of it is SERVING, and stop it when the block ends, however it ends.

    Args:
        simulated: put simulated engines in place of the real ones.
        traces: keep the mesh's traces here; otherwise they go where `env` says.
        keeping: keep them on disk as well.
        logs: a folder for the processes' logs; None makes a temporary one.
        env: the processes' environment.
        tls: how the router is reached, where its own certificate does not tell.
        token: says to the router who asks whether it has found its experts.
        progress: is shown the processes while they start.

    Raises:
        Mistakes: the file is wrong.
        ChildFailed: a process ended, or was not ready in time.
        FolderInUse, OSError: traces cannot be kept on disk as wished.
    """
    mesh = mesh_file.read(config, env, router=True, experts=_expert_names(config), simulated=simulated)
    awaited = [] if mesh.router.targets else [name for expert in mesh.experts for name in expert.serves]
    folder = _folder(logs)
    async with AsyncExitStack() as life:
        kept = life.enter_context(local_traces(keeping=keeping)) if traces else None
        router = _router(config, mesh.router, folder, tls)
        experts = [_expert(config, expert, mesh.router, folder, simulated) for expert in mesh.experts]
        running = RunningMesh(router, experts, folder, kept, _environment(env, kept))
        life.push_async_callback(_stop, running.children)
        for child in running.children:
            await child.start(running.env)
        await _all_serving(running, awaited, token, progress or Silent(), start_within_s)
        yield running


async def _all_serving(
    mesh: RunningMesh, awaited: Collection[str], token: Token | None, progress: Progress, within_s: float
) -> None:
    async def shown() -> None:
        while True:
            progress.show(mesh.children)
            await asyncio.sleep(SHOW_EVERY_S)

    with progress:
        showing = asyncio.create_task(shown())
        try:
            async with asyncio.timeout(within_s):
                await _first_failure(_becomes_serving(child) for child in mesh.children)
                found = experts_found(mesh.target, awaited, mesh.router.tls, token)
                await _first_failure([found, *(_never_ends(child) for child in mesh.children)], all_of_them=False)
        except TimeoutError:
            late = next((child for child in mesh.children if child.state is State.STARTING), None)
            if late is None:
                raise ChildFailed(mesh.router, f"the router has not found every expert in {within_s:g} s") from None
            words = f"{late.name} is not SERVING after {within_s:g} s; its last words: {late.last_words or 'none'}"
            raise ChildFailed(late, words) from None
        finally:
            showing.cancel()
            progress.show(mesh.children)


async def _becomes_serving(child: Child) -> None:
    await _first_failure([serving_at(child.address, child.tls), _never_ends(child)], all_of_them=False)
    child.state = State.SERVING


async def _serves(child: Child) -> None:
    await serving_at(child.address, child.tls)
    child.state = State.SERVING


async def _never_ends(child: Child) -> None:
    was = child.state
    await child.ended()
    verb = "did not start" if was is State.STARTING else "ended"
    raise ChildFailed(child, f"{child.name} {verb}: {child.reason}")


async def _first_failure(works: Any, *, all_of_them: bool = True) -> None:
    """Run works side by side until all are done, or the first is, or one fails; the rest is cancelled.

    Raises:
        Exception: the first failure.
    """
    todo: list[Coroutine[Any, Any, None]] = list(works)
    tasks = [asyncio.create_task(work) for work in todo]
    until = asyncio.FIRST_EXCEPTION if all_of_them else asyncio.FIRST_COMPLETED
    try:
        done, _ = await asyncio.wait(tasks, return_when=until)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _stop(children: Sequence[Child]) -> None:
    await asyncio.gather(*(child.stop() for child in children))


def _router(config: Path, section: RouterSection, folder: Path, tls: ClientTls | None) -> Child:
    if tls is None and section.tls is not None:
        tls = ClientTls(authority=section.tls.certificate)
    return Child(
        name="router",
        command=[sys.executable, "-m", "router_svc", "--config", str(config)],
        address=reached(section.listen),
        log=folder / "router.log",
        grace_s=section.drain_grace_s + BEYOND_DRAIN_S,
        tls=tls,
    )


def _expert(config: Path, section: ExpertSection, router: RouterSection, folder: Path, simulated: bool) -> Child:
    command = [sys.executable, "-m", "expert_svc", "--config", str(config), "--name", section.name]
    return Child(
        name=section.name,
        command=[*command, "--simulated"] if simulated else command,
        address=reached(section.listen),
        log=folder / f"{section.name}.log",
        grace_s=section.drain_grace_s + BEYOND_DRAIN_S,
        tls=router.expert_tls if section.tls is not None else None,
        experts=tuple(section.serves),
    )


def _expert_names(config: Path) -> list[str]:
    """Return the names of a file's expert processes, as far as it can be read: the file is checked in one go."""
    try:
        experts = yaml.safe_load(config.read_bytes())["experts"]
        return [str(expert["name"]) for expert in experts]
    except (OSError, yaml.YAMLError, LookupError, TypeError):
        return []


def reached(listen: str) -> str:
    """Return the address at which this machine reaches a server that listens on `listen`."""
    host, _, port = listen.rpartition(":")
    return f"{ {'0.0.0.0': '127.0.0.1', '[::]': '[::1]', '*': '127.0.0.1'}.get(host, host) }:{port}"  # noqa: S104


def _environment(env: Mapping[str, str], kept: LocalTraces | None) -> dict[str, str]:
    ours = {"EXPERTMESH_PARENT": str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    if kept is not None:
        ours["OTEL_EXPORTER_OTLP_ENDPOINT"] = kept.otlp_endpoint
        ours["OTEL_BSP_SCHEDULE_DELAY"] = env.get("OTEL_BSP_SCHEDULE_DELAY", SPANS_EVERY_MS)
    return {**env, **ours}


def _folder(logs: Path | None) -> Path:
    if logs is None:
        return Path(tempfile.mkdtemp(prefix="expertmesh-"))
    logs.mkdir(parents=True, exist_ok=True)
    return logs
