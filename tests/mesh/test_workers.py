"""Several router processes on one port, and the one that watches over them."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from expert_svc.simulated_engine import expected_answer
from expertmesh_client import AsyncClient
from mesh_wire.errors import MeshError
from mesh_wire.premises import port_in_use
from mesh_wire.settings import Simulation
from support.asking import greedy
from support.calls import Whole, outcome, whole
from support.engines import ByHand
from support.mesh import running_expert
from support.otlp import collecting
from support.waiting import eventually
from support.workers import Supervised, callers, children, gone, listens, running_workers, supervised

CALLERS = 14  # connections: that the kernel gives them all to the same of two workers happens once in 8,000 times


async def test_two_workers_share_a_port_and_both_serve_under_names_of_their_own(tmp_path: Path) -> None:
    with collecting() as collector:
        env = {**collector.env, "OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_METRICS_EXPORTER": "none"}
        async with (
            running_expert() as expert,
            running_workers(tmp_path, expert.target, env=env) as router,
            callers() as ours,
        ):

            async def both_seen() -> bool:
                [stub] = await ours.inference(router.target, 1)
                assert (await whole(stub.Generate(greedy()))).finished
                return len({span.instance for span in collector.spans}) == 2

            await eventually(both_seen)

    assert {span.instance for span in collector.spans} == {f"{router.target} worker {number}" for number in (1, 2)}
    assert router.count("the event loop is") == 2


async def test_a_router_of_one_worker_is_one_process(tmp_path: Path) -> None:
    async with running_expert() as expert, running_workers(tmp_path, expert.target, workers=1) as router:
        assert not children(router.process.pid)
        assert not router.count("worker")


async def test_nobody_else_can_have_the_port_while_workers_share_it(tmp_path: Path) -> None:
    async with running_expert() as expert, running_workers(tmp_path, expert.target) as router:
        said = port_in_use(router.target)
        assert said is not None
        assert "in use" in said
        for pid in (*router.workers().values(), router.process.pid):
            os.kill(pid, signal.SIGSTOP if pid == router.process.pid else signal.SIGKILL)
        assert port_in_use(router.target) is not None, "not even while all are down"


async def test_a_worker_that_is_killed_takes_only_its_own_requests_along_and_is_started_again(tmp_path: Path) -> None:
    engine = ByHand(max_running=CALLERS)
    async with (
        running_expert(engine=engine) as expert,
        running_workers(tmp_path, expert.target) as router,
        callers() as ours,
    ):
        calls = [stub.Generate(greedy()) for stub in await ours.inference(router.target, CALLERS)]
        asked = [asyncio.create_task(outcome(call)) for call in calls]
        await eventually(lambda: engine.held == CALLERS)

        os.kill(router.workers()[1], signal.SIGKILL)
        await eventually(lambda: router.count("worker 1 was ended by SIGKILL"))
        while router.count("the router serves on port") < 3:  # the port never stops answering
            health = health_pb2_grpc.HealthStub(await ours.channel(router.target))
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

        lost = sum(task.done() for task in asked)
        await eventually(lambda: engine.held == CALLERS - lost)
        engine.say("unharmed")
        engine.finish()
        outcomes = await asyncio.gather(*asked)

    errors = [one for one in outcomes if isinstance(one, MeshError)]
    assert {error.code for error in errors} == {grpc.StatusCode.UNAVAILABLE}
    assert [one.text for one in outcomes if isinstance(one, Whole)] == ["unharmed"] * (CALLERS - len(errors))
    assert 0 < len(errors) < CALLERS
    assert set(router.workers()) == {1, 2}


async def test_a_worker_that_is_told_to_stop_leaves_its_callers_to_the_other(tmp_path: Path) -> None:
    engine = ByHand(max_running=2 * CALLERS)
    async with (
        running_expert(engine=engine) as expert,
        running_workers(tmp_path, expert.target) as router,
        callers() as ours,
    ):
        stubs = await ours.inference(router.target, CALLERS)
        before = [asyncio.create_task(whole(stub.Generate(greedy()))) for stub in stubs]
        await eventually(lambda: engine.held == CALLERS)

        leaving = router.workers()[1]
        os.kill(leaving, signal.SIGTERM)
        await eventually(lambda: not listens(leaving))  # until then, the kernel may give it a connection that it resets
        assert router.count("the router drains") == 1
        fresh = await ours.inference(router.target, CALLERS)
        after = [asyncio.create_task(whole(stub.Generate(greedy()))) for stub in fresh]
        await eventually(lambda: engine.held == 2 * CALLERS)

        engine.say("both")
        engine.finish()
        assert [one.text for one in await asyncio.gather(*before, *after)] == ["both"] * 2 * CALLERS
        await router.serve(3)


class Asking:
    """Callers that ask on and on, three at a time by each client, and what went wrong."""

    def __init__(self, clients: list[AsyncClient]) -> None:
        self._clients = clients
        self._over = asyncio.Event()
        self._asked = count()
        self._answered = 0
        self._wrong: list[str] = []
        self._task = asyncio.create_task(self._ask_all())

    async def goes_on(self) -> None:
        """Wait until there have been several answers more for each caller."""
        goal = self._answered + 9 * len(self._clients)
        await eventually(lambda: self._answered > goal or self._task.done())

    async def ends(self) -> list[str]:
        """Let what runs end; returns what went wrong, from the first request on."""
        self._over.set()
        await self._task
        return self._wrong

    async def _ask_all(self) -> None:
        await asyncio.gather(*(self._ask(client) for client in self._clients for _ in range(3)))

    async def _ask(self, client: AsyncClient) -> None:
        while not self._over.is_set():
            prompt = f"prompt {next(self._asked)}"
            try:
                said = await client.generate(prompt, sampling={"temperature": 0, "max_new_tokens": 20}).read()
            except MeshError as error:
                self._wrong.append(str(error))
                continue
            self._answered += 1
            if said != expected_answer("general", greedy(prompt, max_new_tokens=20))[0]:
                self._wrong.append(f"{prompt}: {said}")


@pytest.mark.parametrize("over", ["session", "generate", "direct"])
async def test_callers_notice_nothing_while_all_workers_are_started_again(tmp_path: Path, over: str) -> None:
    async with AsyncExitStack() as life:
        simulation = Simulation(step_base_s=0.005)
        experts = [await life.enter_async_context(running_expert(name=name, simulation=simulation)) for name in "ab"]
        router = await life.enter_async_context(running_workers(tmp_path, *(expert.target for expert in experts)))
        way: dict[str, Any] = {"direct": True} if over == "direct" else {"over": over}
        clients = [await life.enter_async_context(AsyncClient(router.target, **way)) for _ in range(8)]
        asking = Asking(clients)
        await asking.goes_on()
        before = set(router.workers().values())

        router.process.send_signal(signal.SIGUSR1)
        await router.serve(4)
        await eventually(lambda: all(gone(pid) for pid in before))
        await asking.goes_on()

        assert not await asking.ends()
        assert set(router.workers()) == {1, 2}
        assert not before & set(router.workers().values())
        assert router.count("exited with 0, as it was told") == 2


async def test_callers_notice_nothing_while_one_worker_is_told_to_stop(tmp_path: Path) -> None:
    async with AsyncExitStack() as life:
        expert = await life.enter_async_context(running_expert(simulation=Simulation(step_base_s=0.005)))
        router = await life.enter_async_context(running_workers(tmp_path, expert.target))
        clients = [await life.enter_async_context(AsyncClient(router.target)) for _ in range(8)]
        asking = Asking(clients)
        await asking.goes_on()

        os.kill(router.workers()[2], signal.SIGTERM)
        await router.serve(3)
        await asking.goes_on()

        assert not await asking.ends()


async def test_each_worker_lets_in_its_share(tmp_path: Path) -> None:
    engine = ByHand(max_running=CALLERS)
    async with (
        running_expert(engine=engine) as expert,
        running_workers(tmp_path, expert.target, max_in_flight=5) as router,
        callers() as ours,
    ):
        stubs = await ours.inference(router.target, CALLERS)
        asked = [asyncio.create_task(outcome(stub.Generate(greedy()))) for stub in stubs]
        await eventually(lambda: engine.held + sum(task.done() for task in asked) == CALLERS)
        assert engine.held in (5, 6), "3 by each worker; the kernel may have given one of them only 2 of 14"
        engine.finish()
        refused = [one for one in await asyncio.gather(*asked) if isinstance(one, MeshError)]
    assert {error.reason for error in refused} == {"ROUTER_BUSY"}


def to_the_supervisor(router: Supervised) -> None:
    router.process.terminate()


def from_a_terminal(router: Supervised) -> None:
    os.killpg(router.process.pid, signal.SIGINT)


@pytest.mark.parametrize("stop", [to_the_supervisor, from_a_terminal])
async def test_all_workers_drain_and_the_supervisor_ends_well(
    tmp_path: Path, stop: Callable[[Supervised], None]
) -> None:
    engine = ByHand(max_running=CALLERS)
    async with (
        running_expert(engine=engine) as expert,
        running_workers(tmp_path, expert.target) as router,
        callers() as ours,
    ):
        stubs = await ours.inference(router.target, CALLERS)
        calls = [asyncio.create_task(whole(stub.Generate(greedy()))) for stub in stubs]
        await eventually(lambda: engine.held == CALLERS)

        stop(router)
        await eventually(lambda: router.count("the router drains") == 2)
        engine.say("bye")
        engine.finish()

        assert [one.text for one in await asyncio.gather(*calls)] == ["bye"] * CALLERS
        assert await router.process.wait() == 0
        assert all(gone(pid) for pid in router.workers().values())


async def test_a_supervisor_that_is_killed_leaves_nobody(tmp_path: Path) -> None:
    async with running_expert() as expert, running_workers(tmp_path, expert.target) as router:
        router.process.kill()

        await eventually(lambda: all(gone(pid) for pid in router.workers().values()))
        assert router.count("the router drains after SIGTERM") == 2
        await eventually(lambda: port_in_use(router.target) is None)


WORK = """
import signal, sys
from mesh_wire import process, supervisor
process.begin()
supervisor.FIRST_PAUSE_S = 0.001
sys.exit(supervisor.supervise(lambda number, ready: {} if number == 2 else ready() or signal.pause(), 2))
"""


async def test_a_crash_loop_is_named_and_ends_all(tmp_path: Path) -> None:
    async with supervised(tmp_path, "-c", WORK.format("7")) as crashing:
        assert await crashing.process.wait() == 1
        assert gone(crashing.workers()[1])

    errors = [line for line in crashing.said.splitlines() if line.startswith("error: ")]
    assert errors == ["error: worker 2 is in a crash loop: 5 times in a row it exited with 7 within 10 s"]
    assert crashing.said.splitlines()[-1] == errors[0]
    assert crashing.count("worker 2 is process") == 5


async def test_a_crash_loop_tells_a_signal_and_a_traceback(tmp_path: Path) -> None:
    async with supervised(tmp_path, "-c", WORK.format("signal.raise_signal(signal.SIGKILL)")) as crashing:
        assert await crashing.process.wait() == 1
        assert crashing.count("in a row it was ended by SIGKILL within") == 1
    async with supervised(tmp_path, "-c", WORK.format("1 // 0")) as crashing:
        assert await crashing.process.wait() == 1
        assert crashing.count("ZeroDivisionError") == 5


async def test_a_misconfigured_worker_is_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "artefact").mkdir()
    section = {"listen": "127.0.0.1:0", "artefact": "artefact", "targets": ["127.0.0.1:1"], "workers": 2}
    config = tmp_path / "mesh.yaml"
    config.write_text(json.dumps({"router": section}))
    async with supervised(tmp_path, "-m", "router_svc", "--config", str(config)) as router:
        assert await router.process.wait() == 2
        [error] = [line for line in router.said.splitlines() if line.startswith("error: ")]
        assert "manifest" in error
        assert router.count("is process") == 1


async def test_a_worker_that_does_not_drain_is_told(tmp_path: Path) -> None:
    stubborn = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)) or print('ready') or signal.pause()"
    async with supervised(tmp_path, "-c", WORK.format(stubborn), PYTHONUNBUFFERED="1") as running:
        await eventually(lambda: running.count("ready"))
        running.process.terminate()
        assert await running.process.wait() == 1
        assert running.count("worker 2 exited with 3 instead of draining") == 1
