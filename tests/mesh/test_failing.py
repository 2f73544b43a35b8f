"""What the mesh does when experts fail: another replica is asked, as long as nothing was said yet."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from expert_svc.engine import EngineDied
from expertmesh.v1.expert_pb2 import Load
from expertmesh.v1.generation_pb2 import GenerateRequest, RouteReason
from mesh_wire.errors import BadInput, Busy, MeshError, Unavailable
from support.asking import greedy
from support.cable import cable
from support.calls import Talk, failure, whole
from support.engines import ByHand, Failing, FakeEngine
from support.mesh import RunningRouter, running_expert, running_mesh, running_router
from support.strategies import ByWord
from support.waiting import eventually


def busy() -> Busy:
    return Busy("full", reason="EXPERT_BUSY", retry_after_s=0.5, tokens_sent="0")


def gone() -> Unavailable:
    return Unavailable("gone", reason="ENGINE_DEAD", tokens_sent="0")


async def prefer(mesh: RunningRouter, name: str) -> None:
    """Make every other replica look crowded, so that this one is asked first."""
    others = {other.target for other in mesh.experts.values() if other.name != name}
    for other in mesh.experts.values():
        if other.name != name:
            other.engine.board.post(Load(running=10, waiting=10))

    async def told() -> bool:
        replicas = [one for expert in (await mesh.fleet()).experts for one in expert.replicas]
        return all(one.load.running == 10 for one in replicas if one.endpoint in others)

    await eventually(told)


class Quiet(ByHand):
    """Does not say how busy it is."""

    async def generate(self, request: GenerateRequest, **named: str) -> AsyncIterator[Any]:  # type: ignore[override]
        load = self.board.latest
        async for piece in super().generate(request, **named):
            self.board.post(load)
            yield piece


@pytest.mark.parametrize("error", [gone(), EngineDied("shot"), busy(), Unavailable("x", reason="DRAINING")])
async def test_another_replica_is_tried_before_the_first_token(error: Exception) -> None:
    bad, good = Failing(error), ByHand()
    async with running_mesh({"bad": bad, "good": good}) as mesh:
        await prefer(mesh, "bad")
        call = mesh.inference.Generate(greedy())
        await eventually(lambda: good.held == 1)
        good.say("hello")
        good.finish()
        answer = await whole(call)

    assert answer.text == "hello"
    assert answer.order == ["route", "delta", "finished"]
    assert answer.route is not None
    assert (answer.route.replica, answer.route.attempt) == ("good", 2)
    assert len(bad.requests) == 1


@pytest.mark.parametrize("error", [busy(), BadInput("no", reason="REQUEST_REFUSED")])
async def test_what_is_no_loss_is_not_tried_again_after_the_first_token(error: MeshError) -> None:
    bad, good = Failing(error, after_tokens=1), ByHand()
    async with running_mesh({"bad": bad, "good": good}) as mesh:
        await prefer(mesh, "bad")

        assert (await failure(mesh.inference.Generate(greedy()))).reason == error.reason

    assert not good.requests


async def test_bad_input_is_not_tried_again() -> None:
    bad, good = Failing(BadInput("no", reason="REQUEST_REFUSED")), ByHand()
    async with running_mesh({"bad": bad, "good": good}) as mesh:
        await prefer(mesh, "bad")

        assert (await failure(mesh.inference.Generate(greedy()))).reason == "REQUEST_REFUSED"

    assert not good.requests


async def test_there_is_no_third_try() -> None:
    engines = {name: Failing(gone()) for name in ("a", "b", "c")}
    async with running_mesh(engines) as mesh:
        assert (await failure(mesh.inference.Generate(greedy()))).reason == "ENGINE_DEAD"

    assert sum(len(engine.requests) for engine in engines.values()) == 2


async def test_a_busy_expert_without_siblings_is_busy() -> None:
    """Another expert is no substitute for one that will have a place in a moment."""
    crowded, generalist = Failing(busy(), "math"), ByHand("general")
    async with running_mesh({"a": crowded, "b": generalist}, strategy=ByWord({"sum": "math"})) as mesh:
        error = await failure(mesh.inference.Generate(greedy("sum")))

    assert isinstance(error, Busy)
    assert (error.reason, error.retry_after_s) == ("EXPERT_BUSY", 0.5)
    assert not generalist.requests


async def test_a_lost_expert_without_siblings_is_replaced_by_the_generalist() -> None:
    lost, generalist = Failing(gone(), "math"), ByHand("general")
    async with running_mesh({"a": lost, "b": generalist}, strategy=ByWord({"sum": "math"})) as mesh:
        call = mesh.inference.Generate(greedy("sum"))
        await eventually(lambda: generalist.held == 1)
        generalist.say()
        generalist.finish()
        route = (await whole(call)).route

    assert route is not None
    assert (route.expert, route.reason, route.attempt) == ("general", RouteReason.ROUTE_REASON_UNSERVED, 2)


async def test_a_named_expert_is_never_replaced_by_another() -> None:
    lost, generalist = Failing(gone(), "math"), ByHand("general")
    async with running_mesh({"a": lost, "b": generalist}) as mesh:
        error = await failure(mesh.inference.Generate(GenerateRequest(prompt="a", expert="math")))

    assert error.reason == "ENGINE_DEAD"
    assert not generalist.requests


async def test_nobody_up_is_said_at_once() -> None:
    async with running_expert() as expert:
        target = expert.target
    async with running_router(target) as mesh:
        error = await failure(mesh.inference.Generate(greedy()))

        assert isinstance(error, Unavailable)
        assert (error.reason, error.facts["tokens_sent"]) == ("NO_EXPERT", "0")
        unreachable = (await mesh.fleet()).unreachable
        assert [one.endpoint for one in unreachable] == [target]
        assert unreachable[0].reason


async def test_an_unknown_expert_is_told_the_known_ones() -> None:
    async with running_mesh({"a": ["general", "math"]}) as mesh:
        error = await failure(mesh.inference.Generate(GenerateRequest(prompt="a", expert="law")))

    assert (error.reason, error.field) == ("EXPERT_UNKNOWN", "expert")
    assert error.facts == {"expert": "law", "known": "general, math"}


async def test_a_connection_that_breaks_before_the_first_token_is_survived() -> None:
    bad, good = ByHand(), ByHand()
    async with (
        running_expert(name="bad", engine=bad) as one,
        running_expert(name="good", engine=good) as two,
        cable(one.port) as laid,
        running_router(laid.target, two.target) as mesh,
    ):
        mesh.experts = {"good": two}
        await prefer(mesh, "bad")
        call = mesh.inference.Generate(greedy())
        await eventually(lambda: bad.held == 1)

        laid.cut()

        await eventually(lambda: good.held == 1)
        good.say("hello")
        good.finish()
        answer = await whole(call)
        assert answer.text == "hello"
        assert answer.route is not None
        assert (answer.route.replica, answer.route.attempt) == ("good", 2)
        await eventually(lambda: bad.held == 0)


async def test_a_connection_that_breaks_during_an_answer_ends_it_with_what_was_sent() -> None:
    engine = ByHand()
    async with (
        running_expert(engine=engine) as expert,
        cable(expert.port) as laid,
        running_router(laid.target) as mesh,
    ):
        call, talk = mesh.inference.Generate(greedy()), Talk(mesh.inference)
        await talk.start(1, greedy())
        await eventually(lambda: engine.held == 2)
        for _ in range(3):
            engine.say()
        await talk.until_text(1)
        while not (await call.read()).delta.text:
            pass

        laid.cut()

        for error in (await failure(call), await over(talk, 1)):
            assert isinstance(error, Unavailable)
            assert (error.reason, error.facts["tokens_sent"]) == ("EXPERT_LOST", "3")
        await eventually(lambda: engine.held == 0)


async def over(talk: Talk, stream_id: int) -> object:
    await talk.until_over(stream_id)
    return talk.answers[stream_id].error


async def test_a_replica_is_found_again_when_its_connection_is_mended() -> None:
    async with running_expert() as expert, cable(expert.port) as laid, running_router(laid.target) as mesh:
        assert (await whole(mesh.inference.Generate(greedy()))).finished
        laid.cut()
        await eventually(lambda: nobody(mesh))
        assert (await failure(mesh.inference.Generate(greedy()))).reason == "NO_EXPERT"

        laid.mend()
        await eventually(lambda: everybody(mesh))

        assert (await whole(mesh.inference.Generate(greedy()))).finished


async def test_a_replica_that_restarts_is_found_again_with_what_it_serves_now() -> None:
    async with running_expert("general") as first:
        port = first.port
        router = running_router(first.target)
        mesh = await router.__aenter__()
        assert (await whole(mesh.inference.Generate(greedy()))).finished
    try:
        await eventually(lambda: nobody(mesh))
        assert not (await mesh.fleet()).experts[0].available

        async with running_expert("general", "math", listen=f"127.0.0.1:{port}"):
            await eventually(lambda: everybody(mesh))
            answer = await whole(mesh.inference.Generate(GenerateRequest(prompt="a", expert="math")))
            assert answer.finished
    finally:
        await router.__aexit__(None, None, None)


async def nobody(mesh: RunningRouter) -> bool:
    return not await mesh.serving()


async def everybody(mesh: RunningRouter) -> bool:
    return bool(await mesh.serving())


async def test_a_replica_that_withdraws_gets_nothing_new_and_finishes_what_it_has() -> None:
    old, new = Quiet(), ByHand()
    async with running_mesh({"old": old, "new": new}) as mesh:
        await prefer(mesh, "old")
        call = mesh.inference.Generate(greedy())
        await eventually(lambda: old.held == 1)

        await mesh.experts["old"].server.withdraw()

        async def heard() -> bool:
            return await mesh.serving() == ["new"]

        await eventually(heard)
        other = mesh.inference.Generate(greedy())
        await eventually(lambda: new.held == 1)
        engines: list[FakeEngine] = [old, new]
        assert [engine.held for engine in engines] == [1, 1]
        for engine in (old, new):
            engine.finish()
        for each in (call, other):
            assert (await whole(each)).finished


async def test_an_engine_that_dies_under_a_router_ends_the_answer_by_name() -> None:
    engine = ByHand()
    async with running_mesh({"a": engine}) as mesh:
        call = mesh.inference.Generate(greedy())
        await eventually(lambda: engine.held == 1)
        engine.say()
        while not (await call.read()).delta.text:
            pass

        engine.die("out of memory")

        error = await failure(call)
        assert (error.reason, error.message) == ("ENGINE_DEAD", "out of memory")
        assert error.facts == {"tokens_sent": "1"}
