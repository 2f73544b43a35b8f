"""More is asked than there is room for: who waits, in which order, who is refused, and what they are told."""

import asyncio
from typing import Any

import grpc
import pytest

from expertmesh.v1.generation_pb2 import GenerateRequest, Priority, Sampling
from mesh_wire.deadlines import Deadline
from mesh_wire.errors import Busy, MeshError
from mesh_wire.outlets import StreamOutlet
from mesh_wire.session_caller import SessionCaller
from mesh_wire.settings import Simulation
from support.mesh import RunningRouter, running_mesh
from support.waiting import eventually

ONE_PLACE = {"simulation": Simulation(slots=1)}
PATIENT = {"max_wait_s": 1000.0}


class Callers:
    """Asks as whoever it is told to, and keeps the order in which answers came."""

    def __init__(self, mesh: RunningRouter) -> None:
        self._sessions = SessionCaller(mesh.channel)
        self.order: list[str] = []
        self.asked = 0

    async def ask(
        self, caller: str, name: str = "", *, timeout_s: float | None = None, priority: int = 0, tokens: int = 1
    ) -> None:
        sampling = Sampling(max_new_tokens=tokens, ignore_eos=True)
        request = GenerateRequest(prompt="a", request_id=name, sampling=sampling)
        request.priority = priority  # type: ignore[assignment]  # any number can come over the wire
        self.asked += 1
        await self._sessions.ask(request, StreamOutlet(), Deadline.after(timeout_s), caller)
        self.order.append(name or caller)

    def begin(self, caller: str, name: str = "", **more: Any) -> "asyncio.Task[None]":
        return asyncio.create_task(self.ask(caller, name, **more))

    async def close(self) -> None:
        await self._sessions.close()


async def full(mesh: RunningRouter, callers: Callers, waiting: "list[asyncio.Task[None]]") -> None:
    """Stall the one engine, and fill what it is given: its place, and one ahead."""
    mesh.experts["a"].engine.stall()
    for number in range(2):
        waiting.append(callers.begin("first", f"first {number}"))
        await eventually(lambda number=number: mesh.experts["a"].engine.held == number + 1)


async def refused(asking: "asyncio.Task[None]") -> Busy:
    with pytest.raises(Busy) as told:
        await asking
    return told.value


async def test_while_an_engine_is_full_requests_wait_and_the_callers_take_turns() -> None:
    async with running_mesh(expert_section=ONE_PLACE, admission=PATIENT) as mesh:
        callers, waiting = Callers(mesh), list[asyncio.Task[None]]()
        await full(mesh, callers, waiting)
        waiting += [callers.begin("greedy", f"greedy {number}") for number in range(20)]
        waiting += [callers.begin(name, name) for name in ("b", "c")]
        # A session's requests begin in the order in which they were asked, so the last is in when it is refused.
        probe = callers.begin("first", "first 0")
        with pytest.raises(MeshError, match="REQUEST_ID_IN_USE"):
            await probe
        assert mesh.experts["a"].engine.held == 2

        mesh.experts["a"].engine.resume()
        await asyncio.gather(*waiting)

        assert max(callers.order.index("b"), callers.order.index("c")) < 6
        assert [name for name in callers.order if name.startswith("greedy")] == [f"greedy {n}" for n in range(20)]
        await callers.close()


async def test_a_higher_class_goes_first() -> None:
    async with running_mesh(expert_section=ONE_PLACE, admission={**PATIENT, "lower_share": 0}) as mesh:
        callers, waiting = Callers(mesh), list[asyncio.Task[None]]()
        await full(mesh, callers, waiting)
        for priority in (Priority.PRIORITY_BATCH, Priority.PRIORITY_UNSPECIFIED, Priority.PRIORITY_INTERACTIVE):
            waiting += [callers.begin("me", f"{priority} {n}", priority=priority) for n in range(3)]
        with pytest.raises(MeshError, match="REQUEST_ID_IN_USE"):
            await callers.begin("first", "first 0")

        mesh.experts["a"].engine.resume()
        await asyncio.gather(*waiting)

        assert [name[0] for name in callers.order[2:]] == list("111000333")
        await callers.close()


async def test_who_would_wait_too_long_is_refused_at_once_and_let_in_when_it_comes_back() -> None:
    async with running_mesh(expert_section=ONE_PLACE, admission={"queue": 2}) as mesh:
        callers, waiting = Callers(mesh), list[asyncio.Task[None]]()
        await full(mesh, callers, waiting)
        asking = [callers.begin("me", f"mine {number}") for number in range(3)]
        error = await refused(asking[-1])

        assert error.reason == "EXPERT_BUSY"
        assert error.facts["request_id"] == "mine 2"
        assert int(error.facts["expected_wait_ms"]) > 0
        assert error.retry_after_s is not None
        assert error.retry_after_s > 0

        mesh.experts["a"].engine.resume()
        await asyncio.gather(*waiting, *asking[:-1])
        await callers.ask("me", "mine 2")
        await callers.close()


async def test_a_wait_beyond_the_deadline_is_refused_at_once() -> None:
    async with running_mesh(expert_section=ONE_PLACE, admission=PATIENT) as mesh:
        callers, waiting = Callers(mesh), list[asyncio.Task[None]]()
        await full(mesh, callers, waiting)
        waiting += [callers.begin("me", f"mine {number}") for number in range(100)]

        error = await refused(callers.begin("me", "hasty", timeout_s=20))

        assert error.reason == "DEADLINE_TOO_SHORT"  # a hundred take more than a second each, for all that is known
        mesh.experts["a"].engine.resume()
        await asyncio.gather(*waiting)
        await callers.close()


async def test_a_deadline_that_passes_in_the_queue_leaves_nothing_behind() -> None:
    async with running_mesh(expert_section=ONE_PLACE, admission=PATIENT) as mesh:
        callers, waiting = Callers(mesh), list[asyncio.Task[None]]()
        await full(mesh, callers, waiting)
        with pytest.raises(MeshError, match="DEADLINE"):
            await callers.begin("me", "mine", timeout_s=3)
        leaving = callers.begin("me", "leaves")
        with pytest.raises(MeshError, match="REQUEST_ID_IN_USE"):
            await callers.begin("first", "first 0")
        leaving.cancel()

        mesh.experts["a"].engine.resume()
        await asyncio.gather(*waiting)
        await callers.ask("me", "next")
        assert callers.order[2:] == ["next"]
        assert await mesh.outstanding() == 0
        await callers.close()


async def test_each_caller_has_its_own_limits() -> None:
    limits = {"callers": {"small": {"requests_per_s": 0.001, "burst_s": 2000}, "one": {"max_in_flight": 1}}}
    async with running_mesh(expert_section=ONE_PLACE, admission=limits) as mesh:
        callers = Callers(mesh)
        for _ in range(2):
            await callers.ask("small")
        error = await refused(callers.begin("small"))
        assert (error.reason, error.facts["limit"]) == ("CALLER_RATE", "requests_per_s")

        mesh.experts["a"].engine.stall()
        held = callers.begin("one")
        await eventually(lambda: mesh.experts["a"].engine.held == 1)
        assert (await refused(callers.begin("one"))).reason == "CALLER_BUSY"
        mesh.experts["a"].engine.resume()
        await held
        await callers.ask("one")
        await callers.ask("anybody else")
        await callers.close()


async def test_decisions_alone_count_against_a_callers_rate() -> None:
    from expertmesh.v1.router_pb2 import RouteRequest

    limits = {"others": {"requests_per_s": 0.001, "burst_s": 1000}}
    async with running_mesh(admission=limits) as mesh:
        request = RouteRequest(request=GenerateRequest(prompt="a"))
        await mesh.routing.Route(request)
        with pytest.raises(grpc.RpcError) as told:
            await mesh.routing.Route(request)
        assert told.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
