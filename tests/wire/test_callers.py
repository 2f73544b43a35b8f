"""Callers are known by certificate, token or JSON Web Token, and do what the mesh file lets them do."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from expertmesh.v1.expert_pb2 import DescribeRequest, WatchLoadRequest
from expertmesh.v1.inference_pb2 import SessionRequest, SessionStart
from expertmesh.v1.router_pb2 import RouteRequest
from expertmesh_client.aio import AsyncClient
from mesh_wire.auth import callers
from mesh_wire.auth.sections import CallerSection, KnownCaller, PeerSection, Rights
from mesh_wire.auth.tokens import hash_of, new_token
from mesh_wire.errors import Busy, Forbidden, MeshError, Unauthenticated
from mesh_wire.section import KeySource
from mesh_wire.serving import SERVING
from mesh_wire.settings import TicketSection
from support.asking import greedy
from support.calls import Talk, Whole, failure, whole
from support.certificates import SERVER, Files, authority
from support.engines import ByHand
from support.issuer import Issuer
from support.mesh import RunningRouter, running_expert, running_mesh, running_router
from support.otlp import collecting, telemetry_to
from support.waiting import eventually

TOKEN, OTHER = new_token(), new_token()


def known(name: str = "web", token: str = TOKEN, **rights: Any) -> KnownCaller:
    return KnownCaller(name=name, token_sha256=(hash_of(token),), **rights)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def told(mesh: RunningRouter, token: str | None, **changed: Any) -> MeshError | None:
    """How a request ends that shows a token; None: well."""
    async with AsyncClient(mesh.target, token=token, over="generate", timeout_s=60) as client:
        try:
            await client.generate("hi", **changed).read()
        except MeshError as error:
            return error
    return None


def opened(mesh: RunningRouter, token: str | None) -> Talk:
    """A session that shows a token."""
    return Talk(SimpleNamespace(Session=lambda: mesh.inference.Session(metadata=bearer(token) if token else ())))


async def end(talk: Talk, stream_id: int) -> Whole:
    await talk.until_over(stream_id)
    return talk.answers[stream_id]


# Tokens


async def test_who_is_known_by_a_token_is_let_in_and_nobody_else() -> None:
    async with running_mesh(callers=CallerSection(known=(known(),))) as mesh:
        assert await told(mesh, TOKEN) is None
        for token, reason in ((None, "CREDENTIALS_MISSING"), (OTHER, "TOKEN_INVALID"), ("short", "TOKEN_INVALID")):
            error = await told(mesh, token)
            assert isinstance(error, Unauthenticated)
            assert error.reason == reason


@pytest.mark.parametrize("over", ["session", "generate", "direct"])
async def test_every_way_to_ask_shows_the_token(over: Any) -> None:
    ways: dict[str, Any] = {"direct": True} if over == "direct" else {"over": over}
    async with (
        running_mesh(callers=CallerSection(known=(known(),)), expert_section={"accepts": ["anybody"]}) as mesh,
        AsyncClient(mesh.target, token=lambda: TOKEN, **ways) as client,
        AsyncClient(mesh.target, **ways) as nobody,
    ):
        assert await client.generate("hi").read()
        assert (await client.route("hi")).endpoint
        assert (await client.experts()).experts
        for ask in (nobody.generate("hi").read, lambda: nobody.route("hi"), nobody.experts):
            with pytest.raises(Unauthenticated) as refusal:
                await ask()
            assert refusal.value.reason == "CREDENTIALS_MISSING"


async def test_health_checks_need_no_name_and_reflection_does() -> None:
    async with running_mesh(callers=CallerSection(known=(known(),))) as mesh:
        assert await mesh.health() == SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(mesh.channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        assert (await failure(call)).code in (
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.INTERNAL,
        )  # see errors.py


async def test_another_kind_of_header_is_no_token_and_is_not_passed_over() -> None:
    async with running_mesh(callers=CallerSection(known=(known(),), anonymous=Rights())) as mesh:
        call = mesh.inference.Generate(greedy(), metadata=(("authorization", f"Basic {TOKEN}"),))
        assert (await failure(call)).reason == "TOKEN_INVALID"
        assert (await whole(mesh.inference.Generate(greedy()))).finished


async def test_who_says_nothing_may_do_what_the_anonymous_may() -> None:
    section = CallerSection(known=(known(),), anonymous=Rights(rpcs=("ListExperts",)))
    async with running_mesh(callers=section) as mesh:
        assert (await mesh.fleet()).experts
        error = await failure(mesh.inference.Generate(greedy()))
        assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "RPC_NOT_ALLOWED")


# Rights


async def test_a_caller_uses_the_rpcs_that_it_was_given() -> None:
    async with running_mesh(callers=CallerSection(known=(known(rpcs=("Route",)),))) as mesh:
        assert await mesh.routing.Route(RouteRequest(request=greedy()), metadata=bearer(TOKEN))
        error = await told(mesh, TOKEN)
        assert isinstance(error, Forbidden)
        assert (error.reason, error.facts["rpc"]) == ("RPC_NOT_ALLOWED", "Generate")


async def test_a_caller_s_prompts_go_to_the_experts_that_it_may_ask() -> None:
    """By turns, the strategy would have them answered by all."""
    section = CallerSection(known=(known(experts=("math",)), known("all", OTHER)))
    experts = {"a": ("general", "math"), "b": ("coding",)}
    async with (
        running_mesh(experts, callers=section) as mesh,
        AsyncClient(mesh.target, token=TOKEN) as client,
        AsyncClient(mesh.target, token=OTHER) as other,
    ):
        answers = [client.generate("hi") for _ in range(6)]
        for answer in answers:
            await answer.read()
        assert {answer.route.expert for answer in answers if answer.route} == {"math"}
        assert {(await client.route("hi")).route.expert for _ in range(6)} == {"math"}

        with pytest.raises(Forbidden) as refusal:
            await client.generate("hi", expert="coding").read()
        assert refusal.value.reason == "EXPERT_NOT_ALLOWED"
        assert await other.generate("hi", expert="coding").read()


async def test_a_route_session_stays_among_the_experts_allowed() -> None:
    section = CallerSection(known=(known(experts=("math",)),))
    experts = {"a": ("general", "math"), "b": ("coding",)}
    async with (
        running_mesh(experts, callers=section, expert_section={"accepts": ["anybody"]}) as mesh,
        AsyncClient(mesh.target, token=TOKEN, direct=True) as client,
    ):
        answers = [client.generate("hi") for _ in range(4)]
        for answer in answers:
            await answer.read()
        assert {answer.route.expert for answer in answers if answer.route} == {"math"}
        with pytest.raises(Forbidden):
            await client.generate("hi", expert="coding").read()


async def test_a_caller_has_no_more_under_way_than_it_may() -> None:
    engine = ByHand()
    section = CallerSection(known=(known(max_in_flight=2), known("other", OTHER)))
    async with running_mesh({"a": engine}, callers=section) as mesh:
        calls = [mesh.inference.Generate(greedy(), metadata=bearer(TOKEN)) for _ in range(2)]
        await eventually(lambda: engine.held == 2)

        error = await told(mesh, TOKEN)
        assert isinstance(error, Busy)
        assert error.reason == "CALLER_BUSY"
        assert error.retry_after_s

        theirs = mesh.inference.Generate(greedy(), metadata=bearer(OTHER))
        await eventually(lambda: engine.held == 3)
        engine.finish()
        for call in (*calls, theirs):
            assert (await whole(call)).finished

        again = mesh.inference.Generate(greedy(), metadata=bearer(TOKEN))
        await eventually(lambda: engine.held == 1)
        engine.finish()
        assert (await whole(again)).finished


# Names


async def caller_seen(token: str | None, claimed: str, callers: CallerSection | None) -> list[Any]:
    """The caller that router and expert put on their spans, of a request that claims to be somebody's."""
    with collecting() as collector, telemetry_to(collector) as (to_router, to_expert):
        async with running_mesh(
            telemetry=to_router, expert_telemetry=to_expert, callers=callers, expert_section={"accepts": ["anybody"]}
        ) as mesh:
            talk = opened(mesh, token)
            await talk.start(1, greedy(), caller=claimed)
            assert (await end(talk, 1)).finished
    return [
        span.attributes.get("expertmesh.caller")
        for span in collector.named("expertmesh.v1.InferenceService/Session/start")
    ]


async def test_the_name_that_was_shown_stands_in_place_of_one_that_was_claimed() -> None:
    assert await caller_seen(None, "claimed", None) == ["claimed", "claimed"]
    assert await caller_seen(TOKEN, "claimed", CallerSection(known=(known(),))) == ["web", "web"]
    assert await caller_seen(None, "claimed", CallerSection(anonymous=Rights())) == [None, None]


# Certificates


@pytest.fixture
def files(tmp_path: Path) -> Files:
    signer, found = authority(), Files(tmp_path)
    found.put("authority", signer)
    found.put("server", signer.sign(SERVER))
    for name in ("web", "router", "stranger"):
        found.put(name, signer.sign(f"{name}.test", uris=[f"spiffe://mesh.test/{name}"]))
    return found


@pytest.mark.parametrize("name", ["web.test", "spiffe://mesh.test/web"])
async def test_a_caller_is_known_by_a_name_in_its_certificate(files: Files, name: str) -> None:
    section = CallerSection(known=(KnownCaller(name="web", certificate=name), known("gateway")))
    async with (
        running_expert() as expert,
        running_router(expert.target, callers=section, tls=files.server(authority="authority")) as mesh,
        AsyncClient(mesh.target, tls=files.client("web")) as web,
        AsyncClient(mesh.target, tls=files.client("stranger")) as stranger,
        AsyncClient(mesh.target, tls=files.client("stranger"), token=TOKEN) as by_token,
        AsyncClient(mesh.target, tls=files.client("web"), token=OTHER) as bad_token,
    ):
        assert await web.generate("hi").read()
        assert await by_token.generate("hi").read()
        with pytest.raises(Forbidden) as unknown:
            await stranger.generate("hi").read()
        assert unknown.value.reason == "CALLER_UNKNOWN"
        with pytest.raises(Unauthenticated) as invalid:
            await bad_token.generate("hi").read()
        assert invalid.value.reason == "TOKEN_INVALID"


# JSON Web Tokens


async def test_a_web_token_names_its_caller(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path / "keys.json")
    section = CallerSection(known=(KnownCaller(name="web", subject="user-7"),), jwt=issuer.section())
    async with running_mesh(callers=section) as mesh:
        assert await told(mesh, issuer.token("user-7")) is None
        unknown = await told(mesh, issuer.token("user-8"))
        assert isinstance(unknown, Forbidden)
        assert unknown.reason == "CALLER_UNKNOWN"


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let tokens that last for less run out in their sessions."""
    monkeypatch.setattr(callers, "now", lambda: time.time() + seconds)


async def test_a_session_outlives_its_token_for_what_had_begun_and_takes_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer, engine = Issuer(tmp_path / "keys.json"), ByHand()
    section = CallerSection(jwt=issuer.section(unlisted=Rights()))
    async with running_mesh({"a": engine}, callers=section) as mesh:
        talk = opened(mesh, issuer.token())
        await talk.start(1, greedy())
        await eventually(lambda: engine.held == 1)
        pass_time(monkeypatch, 400)

        await talk.start(2, greedy())
        late = (await end(talk, 2)).error
        assert late is not None
        assert late.reason == "TOKEN_EXPIRED"
        engine.finish()
        assert (await end(talk, 1)).finished


async def test_a_client_opens_another_session_when_its_token_has_run_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer, given = Issuer(tmp_path / "keys.json"), []

    def token() -> str:
        given.append(issuer.token(lasts_s=1000 if given else 300))
        return given[-1]

    section = CallerSection(jwt=issuer.section(unlisted=Rights()))
    async with running_mesh(callers=section) as mesh, AsyncClient(mesh.target, token=token) as client:
        assert await client.generate("hi").read()
        pass_time(monkeypatch, 400)
        assert await client.generate("hi").read()
        assert len(given) == 2


# Experts


def peers(tmp_path: Path) -> PeerSection:
    (tmp_path / "peer.token").write_text(new_token(), encoding="utf-8")
    return PeerSection(token=KeySource(file=tmp_path / "peer.token"))


def tickets(tmp_path: Path) -> TicketSection:
    (tmp_path / "ticket.key").write_text(new_token(), encoding="utf-8")
    return TicketSection(keys={"k1": KeySource(file=tmp_path / "ticket.key")})


async def test_an_expert_answers_its_routers_alone_when_told_so(tmp_path: Path) -> None:
    async with running_mesh(peers=peers(tmp_path)) as mesh:
        assert (await whole(mesh.inference.Generate(greedy()))).finished

        expert = mesh.experts["a"]
        for call in (expert.inference.Generate(greedy()), expert.expert.WatchLoad(WatchLoadRequest())):
            assert (await failure(call)).reason == "CREDENTIALS_MISSING"
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await expert.expert.Describe(DescribeRequest())
        assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
        session = expert.inference.Session(iter([SessionRequest(starts=[SessionStart(stream_id=1, request=greedy())])]))
        assert (await failure(session)).code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INTERNAL)
        assert await expert.health() == SERVING


async def test_a_router_without_the_peers_token_finds_no_expert(tmp_path: Path) -> None:
    async with (
        running_expert(peers=peers(tmp_path)) as expert,
        running_router(expert.target) as mesh,
    ):
        assert await mesh.serving() == []


async def test_an_expert_that_accepts_tickets_as_well_serves_who_goes_around_the_router(tmp_path: Path) -> None:
    section = CallerSection(known=(known(),))
    async with running_mesh(peers=peers(tmp_path), tickets=tickets(tmp_path), callers=section) as mesh:
        async with AsyncClient(mesh.target, token=TOKEN, direct=True) as direct:
            assert await direct.generate("hi").read()
        assert await told(mesh, TOKEN) is None
        assert (await failure(mesh.experts["a"].inference.Generate(greedy()))).reason == "TICKET_MISSING"


async def test_routers_are_known_by_their_certificates(files: Files) -> None:
    mutual = files.server(authority="authority")
    named = PeerSection(certificates=("router.test",))
    async with (
        running_expert(peers=named, tls=mutual, caller_tls=files.client("stranger")) as expert,
        running_router(expert.target, expert_tls=files.client("router")) as mesh,
        running_router(expert.target, expert_tls=files.client("stranger")) as false,
    ):
        assert (await whole(mesh.inference.Generate(greedy()))).finished
        assert await false.serving() == []
        assert (await failure(expert.inference.Generate(greedy()))).reason == "CALLER_UNKNOWN"


async def test_an_expert_that_accepts_callers_keeps_to_their_rights(tmp_path: Path) -> None:
    section = CallerSection(known=(known(experts=("math",)),))
    accepts = ("routers", "callers")
    async with (
        running_expert("general", "math", callers=section, peers=peers(tmp_path), accepts=accepts) as expert,
        AsyncClient(expert.target, token=TOKEN) as client,
    ):
        assert await client.generate("hi", expert="math").read()
        for name in ("general", ""):
            with pytest.raises(Forbidden) as refusal:
                await client.generate("hi", expert=name).read()
            assert refusal.value.reason == "EXPERT_NOT_ALLOWED"


async def test_refusals_are_counted_by_reason(tmp_path: Path) -> None:
    with collecting() as collector, telemetry_to(collector) as (to_router, _):
        async with running_mesh(telemetry=to_router, callers=CallerSection(known=(known(),))) as mesh:
            await told(mesh, None)
            await told(mesh, OTHER)
    found = {
        point.attributes[0].value.string_value: point.as_int for point in collector.metrics["expertmesh.auth.refused"]
    }
    assert found == {"CREDENTIALS_MISSING": 1, "TOKEN_INVALID": 1}
