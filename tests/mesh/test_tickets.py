"""A mesh whose experts ask for tickets."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from expertmesh.v1.generation_pb2 import GenerateRequest
from expertmesh.v1.router_pb2 import RouteRequest
from mesh_wire.deadlines import Deadline
from mesh_wire.errors import Forbidden, Unauthenticated
from mesh_wire.inference import TICKET
from mesh_wire.settings import KeySource, TicketSection
from mesh_wire.ticket_keys import Keys
from mesh_wire.tickets import TicketOffice
from support.asking import greedy
from support.calls import Talk, failure, whole
from support.mesh import RunningRouter, running_mesh, running_router

SECRET = b"only the mesh knows this secret!"


@pytest.fixture
def tickets(tmp_path: Path) -> TicketSection:
    key = tmp_path / "k1.key"
    key.write_bytes(SECRET)
    return TicketSection(required=True, keys={"k1": KeySource(file=key)})


@pytest.fixture
async def mesh(tickets: TicketSection) -> AsyncIterator[RunningRouter]:
    async with running_mesh({"a": ["general"], "b": ["math"]}, tickets=tickets) as mesh:
        yield mesh


def for_expert(expert: str = "general") -> GenerateRequest:
    request = greedy()
    request.expert = expert
    return request


async def test_the_router_has_its_own_way_in(mesh: RunningRouter) -> None:
    for _ in range(3):
        assert (await whole(mesh.inference.Generate(for_expert()))).finished


async def test_an_expert_is_not_asked_without_a_ticket(mesh: RunningRouter) -> None:
    expert = mesh.experts["a"]
    talk = Talk(expert.inference)
    await talk.start(1, for_expert())
    await talk.until_over(1)

    for error in (await failure(expert.inference.Generate(for_expert())), talk.answers[1].error):
        assert isinstance(error, Unauthenticated)
        assert error.reason == "TICKET_MISSING"


async def test_a_route_s_ticket_is_good_for_one_request_to_its_expert(mesh: RunningRouter) -> None:
    ticket = (await mesh.routing.Route(RouteRequest(request=for_expert()))).ticket
    a, b = mesh.experts["a"].inference, mesh.experts["b"].inference

    foreign = await failure(b.Generate(for_expert("math"), metadata=((TICKET, ticket),)))
    assert (await whole(a.Generate(for_expert(), metadata=((TICKET, ticket),)))).finished
    again = await failure(a.Generate(for_expert(), metadata=((TICKET, ticket),)))

    assert isinstance(foreign, Unauthenticated)
    assert (foreign.reason, foreign.facts["bound_to"]) == ("TICKET_INVALID", "replica")
    assert isinstance(again, Forbidden)
    assert again.reason == "TICKET_REPLAYED"


async def test_in_a_session_each_start_brings_its_ticket(mesh: RunningRouter) -> None:
    talk = Talk(mesh.experts["a"].inference)
    for number in (1, 2):
        ticket = (await mesh.routing.Route(RouteRequest(request=for_expert()))).ticket
        await talk.start(number, for_expert(), ticket=ticket)
    await talk.start(3, for_expert(), ticket="forged")
    await talk.until_over(1, 2, 3)

    assert talk.answers[1].finished
    assert talk.answers[2].finished
    assert isinstance(talk.answers[3].error, Unauthenticated)
    assert talk.answers[3].error.reason == "TICKET_INVALID"


async def test_a_forged_ticket_is_refused(mesh: RunningRouter) -> None:
    forged = TicketOffice(Keys({"k1": b"x" * 32}), 30).for_request("a", "general", "simulated", Deadline())

    error = await failure(mesh.experts["a"].inference.Generate(for_expert(), metadata=((TICKET, forged),)))

    assert isinstance(error, Unauthenticated)
    assert error.reason == "TICKET_INVALID"


async def test_a_ticket_that_a_session_brings_twice_is_refused_the_second_time(mesh: RunningRouter) -> None:
    talk = Talk(mesh.experts["a"].inference)
    ticket = (await mesh.routing.Route(RouteRequest(request=for_expert()))).ticket
    for number in (1, 2):
        await talk.start(number, for_expert(), ticket=ticket)
    await talk.until_over(1, 2)

    assert talk.answers[1].finished
    assert isinstance(talk.answers[2].error, Forbidden)
    assert talk.answers[2].error.reason == "TICKET_REPLAYED"


async def test_a_session_is_refused_as_a_whole_when_its_own_ticket_is_no_good(mesh: RunningRouter) -> None:
    forged = TicketOffice(Keys({"k1": b"x" * 32}), 30).for_session("a")

    error = await failure(mesh.experts["a"].inference.Session(metadata=((TICKET, forged),)))

    assert isinstance(error, Unauthenticated)
    assert error.reason == "TICKET_INVALID"


async def test_an_expired_ticket_is_refused(mesh: RunningRouter) -> None:
    late = TicketOffice(Keys({"k1": SECRET}), lifetime_s=-60).for_request("a", "general", "simulated", Deadline())

    error = await failure(mesh.experts["a"].inference.Generate(for_expert(), metadata=((TICKET, late),)))

    assert isinstance(error, Unauthenticated)
    assert error.reason == "TICKET_EXPIRED"


async def test_a_router_with_another_key_gets_no_answers(mesh: RunningRouter, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    other.write_bytes(b"x" * 32)
    keys = TicketSection(keys={"k1": KeySource(file=other)})
    async with running_router(mesh.experts["a"].target, tickets=keys) as stranger:
        error = await failure(stranger.inference.Generate(for_expert()))

    assert error.reason == "EXPERT_LOST"
    assert "TICKET" in error.message or "signed" in error.message


async def test_where_no_tickets_are_required_anybody_may_ask() -> None:
    async with running_mesh() as mesh:
        assert (await whole(mesh.experts["a"].inference.Generate(greedy()))).finished
        assert not (await mesh.routing.Route(RouteRequest(request=greedy()))).ticket


async def test_no_secret_and_no_ticket_is_in_a_log(mesh: RunningRouter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    ticket = (await mesh.routing.Route(RouteRequest(request=for_expert()))).ticket
    await failure(mesh.experts["b"].inference.Generate(for_expert("math"), metadata=((TICKET, ticket),)))

    assert SECRET.decode() not in caplog.text
    assert ticket not in caplog.text
