"""What callers write, what experts answer, and what proves who they are reaches nobody else: no log, metric or span.

Every process of a mesh runs at its most talkative: DEBUG, all traces, metrics, traces kept on disk.
"""

import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from expertmesh.v1.generation_pb2 import Chat, ChatMessage, GenerateRequest, Part, Role, Sampling, TokenIds
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from expertmesh.v1.router_pb2 import ListExpertsRequest, RouteRequest
from expertmesh_client.aio import AsyncClient
from expertmesh_client.running import running_mesh as processes
from expertmesh_client.traces.local import Keeping
from mesh_wire.auth.sections import CallerSection, KnownCaller, PeerSection
from mesh_wire.auth.tokens import hash_of, new_token
from mesh_wire.discreet import DiscreetFormatter
from mesh_wire.errors import MeshError
from mesh_wire.section import KeySource
from mesh_wire.serving import open_channel
from mesh_wire.settings import TicketSection
from support.calls import failure, outcome
from support.engines import ByHand, Failing
from support.issuer import Issuer
from support.mesh import running_mesh
from support.otlp import collecting, telemetry_to
from support.waiting import eventually

ASKED, ANSWERED = "zebra-marker-of-the-prompt", "walrus-marker-of-the-answer"
TOKEN, PEER, TICKET = new_token(), new_token(), new_token()


class Telltale:
    """A strategy that fails with what it was given in its words, as foreign code may."""

    name, generation, experts = "telltale", "", ("general", "broken")

    def scores(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        raise ValueError(f"cannot read {prompts[0]!r}")


def requests() -> Iterator[tuple[str, GenerateRequest]]:
    """Requests that go well, and requests that fail for every part of them that is text."""
    yield "prompt", GenerateRequest(prompt=ASKED)
    yield (
        "system turn",
        GenerateRequest(chat=Chat(messages=[said(Role.ROLE_SYSTEM, ASKED), said(Role.ROLE_USER, ASKED)])),
    )
    yield "chat that ends wrongly", GenerateRequest(chat=Chat(messages=[said(Role.ROLE_ASSISTANT, ASKED)]))
    yield "no such role", GenerateRequest(chat=Chat(messages=[ChatMessage(parts=[Part(text=ASKED)])]))
    yield "too long", GenerateRequest(prompt=f"{ASKED} " * 20_000)
    yield "temperature", GenerateRequest(prompt=ASKED, sampling=Sampling(temperature=7))
    yield "stop", GenerateRequest(prompt=ASKED, sampling=Sampling(stop=[ASKED * 20]))
    yield "no schema", GenerateRequest(prompt=ASKED, sampling=Sampling(structured_output={"json_schema": f"{{{ASKED}"}))
    yield "vocabulary", GenerateRequest(token_ids=TokenIds(ids=[10**9]))
    yield "no such expert", GenerateRequest(prompt=ASKED, expert="nobody")


BY_ENGINES = ("too long", "no schema", "vocabulary")  # requests that a real or a simulated engine refuses


def said(role: Any, text: str) -> ChatMessage:
    return ChatMessage(role=role, parts=[Part(text=text)])


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def assert_absent(text: str | bytes, where: str, *secrets: str) -> None:
    raw = text.encode() if isinstance(text, str) else text
    for secret in (ASKED, ANSWERED, TOKEN, PEER, TICKET, *secrets):
        at = raw.find(secret.encode())
        assert at < 0, f"{where}: {raw[max(0, at - 80) : at + 80]!r}"


async def test_what_is_asked_answered_and_shown_stays_between_the_two(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """One process, with engines that answer what the test says, die and break."""
    caplog.set_level(logging.DEBUG)
    issuer = Issuer(tmp_path / "keys.json")
    web_token = issuer.token("website")
    files = {name: tmp_path / name for name in ("peer", "ticket")}
    files["peer"].write_text(PEER)
    files["ticket"].write_text(TICKET)
    access: dict[str, Any] = {
        "callers": CallerSection(
            known=(KnownCaller(name="website", token_sha256=(hash_of(TOKEN),), max_in_flight=3),), jwt=issuer.section()
        ),
        "peers": PeerSection(token=KeySource(file=files["peer"])),
        "tickets": TicketSection(keys={"k1": KeySource(file=files["ticket"])}),
    }
    engine, told, tickets = ByHand(), [], []
    with collecting() as collector, telemetry_to(collector, OTEL_TRACES_SAMPLER="always_on") as (to_router, to_expert):
        async with running_mesh(
            {"a": engine, "b": Failing(ValueError(ASKED), "broken")},
            strategy=Telltale(),
            telemetry=to_router,
            expert_telemetry=to_expert,
            **access,
        ) as mesh:
            # It goes well, and it dies in mid-answer.
            for end in (engine.finish, lambda: engine.fail(RuntimeError(ANSWERED))):
                call = mesh.inference.Generate(GenerateRequest(prompt=ASKED, expert="general"), metadata=bearer(TOKEN))
                await eventually(lambda: engine.held == 1)
                engine.say(ANSWERED)
                end()
                told.append(await outcome(call))
            # A caller leaves in mid-answer.
            call = mesh.inference.Generate(GenerateRequest(prompt=ASKED, expert="general"), metadata=bearer(web_token))
            await eventually(lambda: engine.held == 1)
            engine.say(ANSWERED)
            call.cancel()
            await eventually(lambda: engine.held == 0)
            # An engine's fault, a strategy's, and whatever is wrong with a request.
            broken = GenerateRequest(prompt=ASKED, expert="broken")
            told.append(await failure(mesh.inference.Generate(broken, metadata=bearer(TOKEN))))
            routed = await mesh.routing.Route(
                RouteRequest(request=GenerateRequest(prompt=ASKED)), metadata=bearer(TOKEN)
            )
            tickets.append(routed.ticket)
            for name, request in list(requests())[2:]:
                if name not in BY_ENGINES:
                    told.append(await failure(mesh.inference.Generate(request, metadata=bearer(TOKEN))))
            # Who may not come in.
            shown_to_router = (TOKEN[:-1] + "_", issuer.token("stranger"), issuer.token("website", lasts_s=-9), TICKET)
            for shown in shown_to_router:
                call = mesh.inference.Generate(GenerateRequest(prompt=ASKED), metadata=bearer(shown))
                told += [await failure(call)]
            told.append(
                await failure(
                    mesh.experts["a"].inference.Generate(
                        GenerateRequest(prompt=ASKED), metadata=(("expertmesh-ticket", f"{routed.ticket}x"),)
                    )
                )
            )
            fleet = await mesh.routing.ListExperts(ListExpertsRequest(), metadata=bearer(TOKEN))

    errors = [str(one) + str(one.facts) for one in told if isinstance(one, MeshError)]
    assert len(errors) >= 12
    assert tickets[0]
    assert collector.spans
    assert collector.metrics
    secrets = (web_token, *tickets)
    assert_absent("\n".join(errors), "errors", *secrets)
    assert_absent(str(fleet), "the fleet", *secrets)
    assert_absent(collector.raw, "telemetry", *secrets)
    shown = DiscreetFormatter("%(message)s")
    logs = "\n".join(shown.format(record) for record in caplog.records)
    assert logs.count("ValueError") >= 2  # the engine's and the strategy's
    assert_absent(logs, "logs", *secrets)
    out = capfd.readouterr()
    assert_absent(out.out, "standard output", *secrets)


async def test_processes_at_their_most_talkative_say_nothing_of_it(tmp_path: Path) -> None:
    """The processes of `expertmesh up`, with traces on disk: their logs and their trace store."""
    (tmp_path / "peer").write_text(PEER)
    (tmp_path / "ticket").write_text(TICKET)
    content = {
        "router": {"listen": "127.0.0.1:0", "strategy": "random", "generalist": "general"},
        "experts": [
            {
                "name": "a",
                "listen": "127.0.0.1:0",
                "serves": {"general": None},
                "simulated": {"dies_after_tokens": 10_000},
            }
        ],
        "callers": {"known": [{"name": "website", "token_sha256": [hash_of(TOKEN)]}]},
        "peers": {"token": {"file": "peer"}},
        "tickets": {"keys": {"k1": {"file": "ticket"}}},
    }
    for section in (content["router"], *content["experts"]):  # type: ignore[misc]  # plain data
        section["listen"] = free_address()
    file = tmp_path / "mesh.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    kept = tmp_path / "traces"
    env = {**os.environ, "EXPERTMESH_LOG": "DEBUG", "OTEL_TRACES_SAMPLER": "always_on"}
    keeping = Keeping(folder=kept, max_bytes=1 << 24, max_age_s=3600, say=lambda line: None)
    told: list[str] = []
    async with processes(
        file, keeping=keeping, logs=tmp_path / "logs", env=env, token=TOKEN, start_within_s=100
    ) as mesh:
        for ways in ({}, {"over": "generate"}, {"direct": True}):
            async with AsyncClient(mesh.target, token=TOKEN, timeout_s=60, **ways) as client:  # type: ignore[arg-type]
                assert await client.generate(ASKED, sampling={"max_new_tokens": 5}).read()
        async with open_channel(mesh.target) as channel:
            for _, request in requests():
                request.sampling.max_new_tokens = 5
                ended = await outcome(InferenceServiceStub(channel).Generate(request, metadata=bearer(TOKEN)))
                told.append(str(ended) if isinstance(ended, MeshError) else "")
        os.kill(mesh.experts[0].pid or 0, signal.SIGKILL)
    logs = "\n".join(path.read_text(errors="replace") for path in (tmp_path / "logs").rglob("*") if path.is_file())
    traces = b"\n".join(path.read_bytes() for path in kept.rglob("*") if path.is_file())
    assert "DEBUG" in logs
    assert b"expertmesh.caller" in traces
    assert_absent(logs, "logs")
    assert_absent(traces, "traces on disk")
    assert_absent("\n".join(told), "errors")


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


async def test_no_setting_file_and_no_object_shows_a_secret(tmp_path: Path) -> None:
    """What a traceback or a debugger prints of settings: places of secrets, and hashes."""
    (tmp_path / "peer").write_text(PEER)
    access = CallerSection(known=(KnownCaller(name="website", token_sha256=(hash_of(TOKEN),)),))
    peers = PeerSection(token=KeySource(file=tmp_path / "peer"))
    assert_absent(repr((access, peers)) + json.dumps(access.model_dump(mode="json")), "settings")


def test_a_traceback_tells_kinds_and_places_and_only_safe_words() -> None:
    def fail() -> None:
        try:
            raise KeyError(ASKED)
        except KeyError as error:
            raise OSError(2, "no such file") from error

    try:
        fail()
    except OSError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "it failed", (), sys.exc_info())
    told = DiscreetFormatter("%(message)s").format(record)

    assert_absent(told, "a traceback")
    assert "KeyError" in told
    assert "no such file" in told
    assert "in fail" in told
