"""Traces from Jaeger, or from a store that answers as Jaeger does, by its query API v3 over HTTP.

Source: `QueryService` in jaegertracing/jaeger-idl, proto/api_v3/query_service.proto: answers are one or more
`GRPCGatewayWrapper`s, failures a `GRPCGatewayError`.
"""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import urlencode

from expertmesh_client.traces.spans import Span
from expertmesh_client.traces.trace import Trace, gathered
from expertmesh_client.traces.tree import whats_missing

DEFAULT_JAEGER = "http://localhost:16686"
ASK_AGAIN_S = 0.1  # a query API cannot tell when more has arrived
REQUEST_TIMEOUT_S = 30.0  # a thousand traces are several megabytes


class TraceUnavailable(Exception):
    """A trace cannot be had, for the reason given."""


class Jaeger:
    """One Jaeger's traces, exactly as stored: without its corrections of clocks, which change durations.

    Every method raises `TraceUnavailable` where Jaeger cannot be reached, or answers with something else.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise TraceUnavailable(f"{url} is not the address of a Jaeger, such as {DEFAULT_JAEGER}")
        self._url = url.rstrip("/")

    def trace(self, trace_id: str) -> Trace | None:
        """Return what has arrived of a trace; None if nothing has."""
        url = f"{self._url}/api/v3/traces/{trace_id}?raw_traces=true"
        found = self._traces(url)
        return found.get(trace_id.lower().zfill(32)) or next(iter(found.values()), None)

    def find(self, service: str, *, since_ns: int, limit: int) -> list[Trace]:
        """Return up to `limit` traces with a span of a service that started since then, nanoseconds since the epoch."""
        query = {
            "query.service_name": service,
            "query.start_time_min": _written(since_ns),
            "query.start_time_max": _written(time.time_ns() + 60_000_000_000),  # another machine's clock may be ahead
            "query.search_depth": limit,
            "query.num_traces": limit,  # its name before Jaeger took up the definition's
            "query.raw_traces": "true",
        }
        return list(self._traces(f"{self._url}/api/v3/traces?{urlencode(query)}").values())

    def services(self) -> list[str]:
        """Return the services that Jaeger has spans of."""
        url = f"{self._url}/api/v3/services"
        try:
            return [str(name) for page in _pages(_got(url)) for name in page.get("services", ())]
        except (ValueError, AttributeError, TypeError) as error:
            raise TraceUnavailable(f"{url} does not answer as Jaeger does: {error}") from None

    def _traces(self, url: str) -> dict[str, Trace]:
        try:
            return gathered(page.get("result") for page in _pages(_got(url)))
        except (ValueError, AttributeError) as error:
            raise TraceUnavailable(f"{url} does not answer as Jaeger does: {error}") from None


async def fetch_trace(jaeger: str, trace_id: str, *, wait_s: float = 15.0) -> tuple[list[Span], str]:
    """Return a trace's spans, and what they still lack after `wait_s` seconds; empty when the trace is complete.

    Raises:
        TraceUnavailable: Jaeger cannot be reached, or knows no span of that trace.
    """
    there = Jaeger(jaeger)
    until = time.monotonic() + wait_s
    while True:
        trace = await asyncio.to_thread(there.trace, trace_id)
        missing = whats_missing(trace.spans if trace is not None else [])
        if not missing or time.monotonic() >= until:
            break
        await asyncio.sleep(ASK_AGAIN_S)
    if trace is None:
        raise TraceUnavailable(f"{jaeger} has no span of trace {trace_id} after {wait_s:g} s")
    return trace.spans, missing


def _got(url: str) -> bytes:
    """Return the body of an answer; nothing where Jaeger says that it found nothing."""
    try:
        with urllib.request.urlopen(url, timeout=REQUEST_TIMEOUT_S) as response:  # noqa: S310 - the scheme is checked
            body: bytes = response.read()
            return body
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404:
                return b""
            raise TraceUnavailable(f"{url} answers {error.code} {_reason(error)}") from None
    except (OSError, HTTPException) as error:
        raise TraceUnavailable(f"{url} cannot be reached: {getattr(error, 'reason', error)}") from None


def _reason(error: urllib.error.HTTPError) -> str:
    """Return what Jaeger says of an error, else HTTP's own words."""
    try:
        return " ".join(str(json.loads(error.read())["error"]["message"]).split())
    except (ValueError, LookupError, TypeError, OSError):
        return error.reason


def _pages(body: bytes) -> Iterator[dict[str, Any]]:
    """Yield the objects of an answer: one today, more where the gateway streams them."""
    text = body.decode()
    decoder = json.JSONDecoder()
    at = 0
    while rest := text[at:].lstrip():
        at = len(text) - len(rest)
        page, at = decoder.raw_decode(text, at)
        yield page


def _written(at_ns: int) -> str:
    """Return a time in the form of RFC 3339, to the microsecond."""
    return datetime.fromtimestamp(at_ns / 1e9, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
