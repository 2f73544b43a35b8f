"""The client's one session: shared by all that it asks, opened again when it broke."""

import asyncio

import grpc
import pytest

from expertmesh_client import AsyncClient, Foreign, Unavailable
from mesh_wire.errors import MeshError
from support.cable import cable
from support.engines import ByHand
from support.mesh import running_expert
from support.scripted import scripted
from support.waiting import eventually


async def test_many_answers_share_one_session() -> None:
    async with scripted() as node, AsyncClient(node.target) as client:
        texts = await asyncio.gather(*(client.generate(f"prompt {at}").read() for at in range(100)))

    assert texts == ["Fifty six"] * 100
    assert node.sessions == 1


async def test_the_session_is_opened_with_the_first_answer_and_not_before() -> None:
    async with scripted() as node, AsyncClient(node.target) as client:
        await client.experts()
        client.generate("never iterated")

    assert node.sessions == 0


async def test_leaving_one_answer_leaves_the_others_alone() -> None:
    async with running_expert(engine=ByHand()) as expert, AsyncClient(expert.target) as client:
        staying = asyncio.create_task(client.generate("x", request_id="staying").read())
        leaving = asyncio.create_task(client.generate("x", request_id="leaving").read())
        await eventually(lambda: expert.engine.held == 2)

        leaving.cancel()

        await eventually(lambda: expert.engine.held == 1)
        expert.engine.say("still here")
        expert.engine.finish()
        assert await staying == "still here"


async def test_a_slow_reader_gets_everything_in_fewer_pieces() -> None:
    async with running_expert(engine=ByHand()) as expert, AsyncClient(expert.target) as client:
        pieces = aiter(client.generate("x"))
        first = asyncio.ensure_future(anext(pieces))
        await eventually(lambda: expert.engine.held)
        expert.engine.say("one ")
        assert await first == "one "

        for word in ("two ", "three "):
            expert.engine.say(word)
        expert.engine.finish()
        await eventually(lambda: not expert.engine.held)
        other = asyncio.create_task(client.generate("y").read())  # in the same session: what came before it is here
        await eventually(lambda: expert.engine.held)
        expert.engine.finish()
        await other

        assert [piece async for piece in pieces] == ["two three "]


async def test_a_request_whose_session_breaks_before_any_token_is_asked_again() -> None:
    async with (
        running_expert(engine=ByHand()) as expert,
        cable(expert.port) as laid,
        AsyncClient(laid.target) as client,
    ):
        reading = asyncio.create_task(client.generate("x", request_id="same").read())
        await eventually(lambda: expert.engine.held)

        laid.cut()
        await eventually(lambda: not expert.engine.held)
        laid.mend()

        await eventually(lambda: expert.engine.held)
        expert.engine.say("after all")
        expert.engine.finish()
        assert await reading == "after all"
        assert [request.request_id for request in expert.engine.requests] == ["same", "same"]


async def test_a_session_that_breaks_in_mid_answer_ends_it_and_is_opened_again_by_the_next() -> None:
    async with (
        running_expert(engine=ByHand()) as expert,
        cable(expert.port) as laid,
        AsyncClient(laid.target) as client,
    ):
        answer = client.generate("x")
        reading = asyncio.create_task(answer.read())
        await eventually(lambda: expert.engine.held)
        expert.engine.say("half")
        await eventually(lambda: answer.text == "half")

        laid.cut()

        with pytest.raises(MeshError) as broke:
            await reading
        assert broke.value.code is grpc.StatusCode.UNAVAILABLE
        await eventually(lambda: not expert.engine.held)
        assert len(expert.engine.requests) == 1
        laid.mend()
        again = asyncio.create_task(client.generate("y").read())
        await eventually(lambda: expert.engine.held)
        expert.engine.finish()
        assert await again == ""


async def test_a_server_that_drains_ends_what_it_has_while_a_new_session_goes_elsewhere() -> None:
    async with (
        scripted(refusals=[Unavailable("it stops", reason="DRAINING")]) as node,
        AsyncClient(node.target) as client,
    ):
        assert await client.generate("x").read() == "Fifty six"

    assert node.sessions == 2


async def test_closing_the_client_ends_what_is_under_way_and_what_is_asked_later() -> None:
    async with scripted(endless=True) as node:
        client = AsyncClient(node.target)
        reading = asyncio.create_task(client.generate("x").read())
        await eventually(lambda: node.running == 1)

        await client.close()

        for ended in (reading, client.generate("x").read()):
            with pytest.raises(Foreign, match="closed") as closed:
                await ended
            assert closed.value.code is grpc.StatusCode.CANCELLED
        await eventually(lambda: node.running == 0)
