"""`expertmesh ask`: one prompt, one answer."""

import json
import os
import sys
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expertmesh_client.cli import options
from expertmesh_client.cli.failures import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expertmesh_client.answer import AsyncAnswer
    from mesh_wire.telemetry import Telemetry
    from mesh_wire.tls import ClientTls

DEFAULT_OTLP = "http://localhost:4317"


def ask(
    prompt: options.Prompt,
    target: options.Target = options.DEFAULT_TARGET,
    expert: options.Expert = "",
    precision: options.Precision = None,
    direct: options.Direct = False,
    as_json: options.Json = False,
    trace: Annotated[bool, typer.Option("--trace", help="Show where the time went, as a tree.")] = False,
    jaeger: Annotated[
        str, typer.Option(envvar="EXPERTMESH_JAEGER", metavar="URL", help="Where --trace finds the trace.")
    ] = "http://localhost:16686",
    trace_wait: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long --trace waits for spans.")] = 15,
    timeout: options.Timeout = None,
    max_tokens: options.MaxTokens = None,
    min_tokens: options.MinTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    presence_penalty: options.Presence = None,
    frequency_penalty: options.Frequency = None,
    repetition_penalty: options.Repetition = None,
    json_schema: options.JsonSchema = None,
    regex: options.Regex = None,
    tls: options.Tls = False,
    ca: options.Ca = None,
    cert: options.Cert = None,
    key: options.Key = None,
    server_name: options.ServerName = None,
    token_file: options.TokenFile = None,
) -> None:
    """Ask one prompt. The answer streams to standard output, who gives it and why to standard error.

    With --trace the spans go to OTEL_EXPORTER_OTLP_ENDPOINT, http://localhost:4317 where that is not set, and the
    trace is read back from --jaeger: a Jaeger, or the store that `expertmesh up` runs.
    """
    sampling = options.sampling_of(
        json_schema,
        regex,
        max_new_tokens=max_tokens,
        min_new_tokens=min_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        seed=seed,
        stop=stop,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        repetition_penalty=repetition_penalty,
    )
    asked = {
        "prompt": _prompt(prompt),
        "expert": expert,
        "precision": precision,
        "sampling": sampling or None,
        "timeout_s": timeout,
    }
    encrypted = options.tls_of(tls, ca, cert, key, server_name)
    import asyncio

    options.quiet_grpc()
    traced = (jaeger, trace_wait) if trace else None
    asyncio.run(_ask(target, encrypted, options.token_of(token_file), direct, asked, as_json, traced))


async def _ask(
    target: str,
    tls: "ClientTls | None",
    token: str | None,
    direct: bool,
    asked: dict[str, Any],
    as_json: bool,
    traced: tuple[str, float] | None,
) -> None:
    from expertmesh_client.aio import AsyncClient
    from expertmesh_client.cli.shapes import answer_shape

    with _telemetry(always=traced is not None) as telemetry:
        # One prompt is one call; a session pays off for many.
        how: dict[str, Any] = {"tls": tls, "token": token, "telemetry": telemetry, "direct": direct}
        async with AsyncClient(target, over="generate", **how) as client:
            answer = client.generate(**asked)
            async with answer:
                await _show(answer, silent=as_json)
    shape = answer_shape(answer.text, answer.route, answer.finished, asked["expert"])
    if traced is not None:
        shape |= await _show_trace(answer.trace_id, *traced, silent=as_json)
    if as_json:
        print(json.dumps(shape, ensure_ascii=False, indent=2))


async def _show(answer: "AsyncAnswer", *, silent: bool) -> None:
    """Print the answer as it comes; the route goes to standard error."""
    from expertmesh.v1.generation_pb2 import Delta, RouteChosen
    from expertmesh_client.cli.shapes import route_line

    try:
        async with aclosing(answer.events()) as events:
            async for event in events:
                match event:
                    case RouteChosen() if not silent:
                        print(route_line(event), file=sys.stderr, flush=True)
                    case Delta(text=text) if not silent:
                        print(text, end="", flush=True)
    finally:
        if answer.text and not silent:
            print(flush=True)


async def _show_trace(trace_id: str, jaeger: str, wait_s: float, *, silent: bool) -> dict[str, Any]:
    """Print the trace as a tree; returns it as data."""
    from expertmesh_client.traces.jaeger import TraceUnavailable, fetch_trace
    from expertmesh_client.traces.tree import data_of, tree_of
    from expertmesh_client.traces.waterfall import lines_of

    if not trace_id:
        raise Failure("tracing is switched off in the environment: see OTEL_SDK_DISABLED and OTEL_TRACES_EXPORTER")
    try:
        spans, missing = await fetch_trace(jaeger, trace_id, wait_s=wait_s)
    except TraceUnavailable as error:
        raise Failure(f"{error}; `expertmesh up` and Jaeger keep traces, --jaeger says where") from None
    roots = tree_of(spans)
    if missing:
        print(f"note: the trace is incomplete: {missing}", file=sys.stderr)
    if not silent:
        print(f"\ntrace {trace_id}", *lines_of(roots), sep="\n", flush=True)
    return {"trace_id": trace_id, "trace": [data_of(root) for root in roots]}


@contextmanager
def _telemetry(*, always: bool) -> "Iterator[Telemetry]":
    """This command's telemetry: where the environment says, or if wanted `always`, at its usual place."""
    import logging

    from mesh_wire.telemetry import exporting

    env = {**os.environ, "OTEL_METRICS_EXPORTER": "none"}  # a command measures nothing
    if always:
        env.setdefault("OTEL_EXPORTER_OTLP_ENDPOINT", DEFAULT_OTLP)
        os.environ["OTEL_TRACES_SAMPLER"] = "always_on"
        os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # the fetch tells what is missing
    with exporting("expertmesh-client", str(os.getpid()), env=env) as telemetry:
        yield telemetry


def _prompt(prompt: str) -> str:
    return sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt
