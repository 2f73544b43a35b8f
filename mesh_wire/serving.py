"""A server's life: open, healthy, drained, closed. Every server of the mesh, and of its tests, is made here."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mesh_wire.auth.guard import Guard
from mesh_wire.auth.reloading import Certificates
from mesh_wire.boundary import Admit, Boundary, Trailer
from mesh_wire.settings import ServerSection
from mesh_wire.telemetry import Telemetry
from mesh_wire.tls import ClientTls, ServerTls
from mesh_wire.wire_options import MAX_MESSAGE_BYTES, channel_options, server_options

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING
LAST_WRITES_S = 0.2  # for statuses on their way when the drain is over


class PortTaken(OSError):
    """The address cannot be listened on."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that runs."""

    port: int
    health: health.aio.HealthServicer
    services: Sequence[str]

    async def withdraw(self) -> None:
        """Say NOT_SERVING for good; open calls go on."""
        await self.health.enter_graceful_shutdown()


@asynccontextmanager
async def serving(
    register: Callable[[grpc.aio.Server], None],
    services: Sequence[str],
    *,
    address: str,
    grace_s: float,
    drain: Callable[[], Awaitable[None]] | None = None,
    tls: ServerTls | None = None,
    telemetry: Telemetry | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    with_reflection: bool = True,
    with_channelz: bool = False,
    shares_port: bool = False,
    trailer: Trailer = tuple,
    admit: Admit | None = None,
) -> AsyncIterator[Serving]:
    """Serve until the block ends, then drain.

    Health turns NOT_SERVING before the drain starts, so callers look elsewhere while running requests finish; those
    still running after `grace_s` seconds are cancelled.

    Args:
        register: adds the servicers to the server.
        services: their full names, each of which gets a health status.
        address: `host:port`; port 0 takes a free one.
        drain: refuses new requests and returns when the running ones are done. gRPC's own grace would wait for streams
            that never end by themselves, such as a router's session.
        shares_port: other processes of the same service listen there too, and take over from the start of the drain.
        trailer: metadata with which every call ends, whatever way it does.
        admit: is asked whether a call may come in; see `Boundary`.

    Raises:
        PortTaken: the address cannot be listened on.
        Unusable: its certificates are not.
    """
    shown = Certificates(tls, telemetry).credentials() if tls else None
    server = grpc.aio.server(
        interceptors=[Boundary(max_message_bytes, trailer, admit)],
        options=server_options(max_message_bytes, shares_port=shares_port),
    )
    # Methods are looked up by name. For each that is registered besides, as generated code does, grpc.aio has a task
    # wait for its calls, and whenever one comes it waits for all of them anew: 3 µs a call for every method there is.
    server.add_registered_method_handlers = lambda *_: None  # type: ignore[method-assign]
    healths = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    register(server)
    names = [*services, health.SERVICE_NAME]
    if with_reflection:
        reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
    if with_channelz:
        channelz.add_channelz_servicer(server)
    try:
        port = server.add_secure_port(address, shown) if shown else server.add_insecure_port(address)
    except RuntimeError as error:
        await server.stop(None)
        raise PortTaken(f"cannot listen on {address}: {error}") from None
    await server.start()
    for name in ("", *names):
        await healths.set(name, SERVING)
    try:
        yield Serving(port, healths, names)
    finally:
        # Callers must not be kept here while others would answer: no more connections, and new calls on new ones. Those
        # who watch our health must find such a one before they hear that it ends.
        leaving = asyncio.create_task(server.stop(grace_s)) if shares_port else None
        await asyncio.sleep(0)
        await healths.enter_graceful_shutdown()
        if drain is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await drain()
        await server.stop(LAST_WRITES_S)
        if leaving is not None:
            await leaving


def serving_by(
    section: ServerSection,
    register: Callable[[grpc.aio.Server], None],
    services: Sequence[str],
    *,
    drain: Callable[[], Awaitable[None]],
    telemetry: Telemetry | None = None,
    shares_port: bool = False,
    trailer: Trailer = tuple,
    guard: Guard | None = None,
) -> AbstractAsyncContextManager[Serving]:
    """Serve as a section of the mesh file says; see `serving`."""
    return serving(
        register,
        services,
        address=section.listen,
        grace_s=section.drain_grace_s,
        drain=drain,
        tls=section.tls,
        telemetry=telemetry,
        max_message_bytes=section.max_message_bytes,
        with_reflection=section.reflection,
        with_channelz=section.channelz,
        shares_port=shares_port,
        trailer=trailer,
        admit=guard.admit if guard else None,
    )


def open_channel(
    target: str, tls: ClientTls | None = None, *, service_config: str | None = None, attentive: bool = False
) -> grpc.aio.Channel:
    """Open a channel to `target`, with the mesh's options; see `channel_options`."""
    options = channel_options(service_config, attentive=attentive)
    if tls is not None:
        return grpc.aio.secure_channel(target, tls.credentials(), options=[*options, *tls.options()])
    return grpc.aio.insecure_channel(target, options=options)
