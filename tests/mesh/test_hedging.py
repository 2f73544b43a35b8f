"""A second replica beside one whose first token is late."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from expertmesh.v1.generation_pb2 import GenerateRequest
from mesh_wire.errors import Unavailable
from router_svc.activity import Ledger
from router_svc.hedging import FEWEST, Hedges
from support.asking import greedy
from support.calls import Whole, failure, whole
from support.engines import ByHand
from support.mesh import RunningRouter, running_mesh
from support.waiting import eventually


@asynccontextmanager
async def used_to_be_quick(**section: object) -> AsyncIterator[tuple[RunningRouter, ByHand, ByHand]]:
    """Two replicas that have answered often enough for a late answer to be known as one."""
    a, b = ByHand(), ByHand()
    async with running_mesh({"a": a, "b": b}, **section) as mesh:
        await eventually(lambda: both_serve(mesh))
        for _ in range(FEWEST):
            call = mesh.inference.Generate(greedy())
            await eventually(lambda: a.held + b.held == 1)
            for engine in (a, b):
                engine.say()
                engine.finish()
            await whole(call)
        for engine in (a, b):
            await eventually(lambda engine=engine: not engine.held)
            engine.requests.clear()
        yield mesh, a, b


async def both_serve(mesh: RunningRouter) -> bool:
    return await mesh.serving() == ["a", "b"]


def hedged(request: GenerateRequest | None = None) -> GenerateRequest:
    request = request or greedy()
    request.hedge = True
    return request


@pytest.mark.parametrize("winner", [0, 1], ids=["asked first", "asked second"])
async def test_whoever_is_first_answers_and_the_other_s_place_is_free(winner: int) -> None:
    async with used_to_be_quick() as (mesh, a, b):
        call = mesh.inference.Generate(hedged())
        await eventually(lambda: a.held + b.held == 1)
        order = [a, b] if a.held else [b, a]
        await eventually(lambda: a.held == b.held == 1)

        order[winner].say("hello")

        await eventually(lambda: order[1 - winner].held == 0)
        order[winner].say(" again")
        order[winner].finish()
        answer = await whole(call)
        assert (answer.text, answer.token_ids) == ("hello again", [7, 7])
        assert answer.order[0] == "route"
        assert answer.order.count("route") == 1
        assert answer.route is not None
        assert answer.route.replica == ("a" if order[winner] is a else "b")
        assert await mesh.outstanding() == 0


async def test_a_winner_that_dies_is_followed_by_the_other_with_the_rest() -> None:
    async with used_to_be_quick() as (mesh, a, b):
        call, answer = mesh.inference.Generate(hedged()), Whole()
        await eventually(lambda: a.held == b.held == 1)
        a.say("one")
        await eventually(lambda: b.held == 0)
        while not answer.token_ids:
            answer.take(await call.read())
        a.die()

        await eventually(lambda: b.held == 1)
        assert b.requests[-1].resume.text == "one"
        b.say(" two")
        b.finish()
        while not answer.over:
            answer.take(await call.read())
    assert (answer.text, answer.token_ids) == ("one two", [7, 7])


async def test_a_hedge_that_fails_leaves_the_first_to_answer() -> None:
    async with used_to_be_quick() as (mesh, a, b):
        call = mesh.inference.Generate(hedged())
        await eventually(lambda: a.held + b.held == 1)
        first, second = (a, b) if a.held else (b, a)
        await eventually(lambda: second.held == 1)
        second.fail(Unavailable("no", reason="ENGINE_DEAD"))
        await eventually(lambda: second.held == 0)
        first.say("still here")
        first.finish()

        assert (await whole(call)).text == "still here"


async def test_a_caller_that_leaves_frees_both_places() -> None:
    async with used_to_be_quick() as (mesh, a, b):
        call = mesh.inference.Generate(hedged())
        await eventually(lambda: a.held == b.held == 1)

        call.cancel()

        await eventually(lambda: a.held == b.held == 0)


async def test_both_failing_is_one_failure_of_the_first() -> None:
    async with used_to_be_quick() as (mesh, a, b):
        call = mesh.inference.Generate(hedged())
        await eventually(lambda: a.held == b.held == 1)
        for engine in (a, b):
            engine.fail(Unavailable("no", reason="REQUEST_REFUSED"))

        await eventually(lambda: a.held + b.held == 1)  # the second try, which is no hedge
        for engine in (a, b):
            engine.fail(Unavailable("no", reason="REQUEST_REFUSED"))
        assert (await failure(call)).reason == "REQUEST_REFUSED"


async def test_nobody_is_hedged_who_does_not_want_to_be() -> None:
    async with used_to_be_quick(hedge=True) as (mesh, a, b):
        request = greedy()
        request.hedge = False
        call = mesh.inference.Generate(request)
        await eventually(lambda: a.held + b.held == 1)
        wanted = mesh.inference.Generate(greedy())
        await eventually(lambda: a.held + b.held == 3)

        for engine in (a, b):
            engine.say()
            engine.finish()
        await whole(call)
        await whole(wanted)
        assert len(a.requests) + len(b.requests) == 3


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_late_is_what_95_in_100_were_not() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    hedges = Hedges(ledger, always=True, clock=clock)
    for at in range(FEWEST - 1):
        ledger.first_token("math", at / 100)
    assert hedges.late_after_s(greedy(), "math") is None

    clock.now += 1
    ledger.first_token("math", 9.0)

    assert hedges.late_after_s(greedy(), "math") == pytest.approx(0.18)
    assert hedges.late_after_s(greedy(), "other") is None
    assert Hedges(ledger, always=False, clock=clock).late_after_s(greedy(), "math") is None


def test_one_request_in_twenty_is_hedged_though_all_be_late() -> None:
    hedges = Hedges(Ledger(), always=True)
    granted = 0
    for _ in range(2000):
        hedges.late_after_s(greedy(), "math")
        granted += hedges.one_more()

    assert granted <= 2000 * 0.05 + 1
    assert granted >= 2000 * 0.05 - 1
