"""Takes OTLP exports and drops them: the far end of what is measured, in a process of its own."""

import asyncio
import signal
import sys
from typing import Any

import grpc


async def _take(request: bytes, context: object) -> bytes:
    return b""  # the message of a service that took everything


async def serve(port: int) -> None:
    server = grpc.aio.server()
    services = {"trace": "TraceService", "metrics": "MetricsService"}
    for kind, service in services.items():
        name = f"opentelemetry.proto.collector.{kind}.v1.{service}"
        handler: Any = grpc.unary_unary_rpc_method_handler(_take)  # bytes in, bytes out: nothing is read
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    await over.wait()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
