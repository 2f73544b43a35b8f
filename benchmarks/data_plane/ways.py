"""The ways from client to engine, and the processes in the middle of each."""

import json
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.data_plane import envoy
from benchmarks.data_plane.calls import EXPERTS
from benchmarks.data_plane.host import ROOT, Child, free_port, python
from benchmarks.data_plane.loads import IN_STEP, Load
from benchmarks.data_plane.readers import ROUTE, Caller, over_session, plain
from benchmarks.data_plane.routing import around_router, route_stream

PINNED = EXPERTS[0]


@dataclass(frozen=True)
class Way:
    name: str
    middle: str  # none, envoy, naive, floor or router
    open: Callable[[int], Awaitable[Caller]]  # a caller on a connection of its own to a port
    process: str = ""  # ways of one middle that name the same process share it; of a floor, its arguments
    expert: str = PINNED  # named in each request; empty: the router classifies
    only: str = ""  # the one load that it is measured under; empty: all but decisions
    decisions: int = 1  # in each question, where decisions alone are asked for
    in_step: bool = False  # whether it is measured under the load of one engine beside four too
    about: str = ""

    def under(self, load: Load) -> bool:
        if load.name == IN_STEP:
            return self.in_step
        return load.name == self.only if self.only else not load.of_decisions


def _decisions(
    name: str, open_caller: Callable[[int], Awaitable[Caller]], *, decisions: int = 1, about: str
) -> list[Way]:
    """Return a way to decisions alone: for requests that name their expert, and for those to be classified."""
    way = Way(name, "router", open_caller, "routes", only="decisions", decisions=decisions, about=about)
    return [way, replace(way, name=f"{name}, classified", expert="", about="")]


WAYS = (
    Way("direct", "none", plain, in_step=True, about="the client asks the engines"),
    Way("envoy", "envoy", plain, about="Envoy passes HTTP/2 through, one worker thread"),
    Way("naive", "naive", plain, about="grpc.aio on uvloop: a message read, a message written"),
    Way("generate", "router", plain, "generate", about="our router, a `Generate` call per answer"),
    Way("session", "router", over_session, "session", in_step=True, about="our router, by the client's sessions"),
    Way("generate, classified", "router", plain, "generate", expert="", only="1x20"),
    Way("session, classified", "router", over_session, "session", expert="", only="1x20"),
    Way("route+direct", "router", around_router, "routes", about="our router decides, the engine itself answers"),
    *_decisions("Route", partial(plain, path=ROUTE), about="a unary call for each decision"),
    *_decisions("RouteSession", route_stream, about="one stream, a message for each decision"),
    *_decisions("RouteSession, 16", route_stream, decisions=16, about="one stream, 16 decisions to a message"),
)


def router_config(port: int, targets: Iterable[int], file: Path) -> None:
    """Write the mesh file of a router with the shipped artefact, which only requests that name no expert meet."""
    router = {
        "listen": f"127.0.0.1:{port}",
        "targets": [f"127.0.0.1:{target}" for target in targets],
        "strategy": "clusters",
        "artefact": str(ROOT / "models" / "router" / "clusters"),
        "max_in_flight": 100_000,
    }
    file.write_text(json.dumps({"router": router}), encoding="utf-8")  # JSON is YAML


class Middle:
    """What stands in the middle of a way: a process, or nothing."""

    def __init__(self, ports: list[int], child: Child | None) -> None:
        self.ports = ports
        self.child = child


class Middles:
    """Starts the middles in front of some engines, each once, and keeps those that are not measured stopped."""

    def __init__(self, folder: Path, core: int, life: ExitStack) -> None:
        self._folder = folder
        self._core = core
        self._life = life
        self._started: dict[tuple[str, str, int], Middle] = {}

    async def of(self, way: Way, targets: list[int]) -> Middle:
        """Return the middle of a way in front of engines; it stands still until it is resumed."""
        key = (way.middle, way.process, len(targets))
        known = self._started.get(key)
        if known is None or (known.child is not None and known.child.dead):
            self._started[key] = await self._start(way, targets)
        return self._started[key]

    async def _start(self, way: Way, targets: list[int]) -> Middle:
        if way.middle == "none":
            return Middle(targets, None)
        port = free_port()
        stem = self._folder / f"{way.middle}-{way.process}-{len(targets)}"
        child = Child(self._command(way, port, targets, stem.with_suffix(".json")), self._core, stem)
        self._life.callback(child.kill)
        await child.listening(port)
        child.pause()
        return Middle([port], child)

    def _command(self, way: Way, port: int, targets: list[int], file: Path) -> list[str]:
        match way.middle:
            case "envoy":
                program = envoy.binary()
                assert program is not None, "skipped where it is not installed"
                return envoy.command(program, port, targets, file)
            case "naive":
                addresses = [f"127.0.0.1:{target}" for target in targets]
                return python("benchmarks.data_plane.naive", str(port), *addresses)
            case "floor":
                return python("benchmarks.data_plane.floor", str(port), *way.process.split())
            case _:
                router_config(port, targets, file)
                return python("router_svc", "--config", str(file))
