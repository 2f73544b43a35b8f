"""Getting one trace from Jaeger, or from a store that answers as Jaeger does."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from http.client import HTTPException

from expertmesh_client.otlp_json import from_json
from expertmesh_client.spans import Span, spans_of
from expertmesh_client.trace_tree import whats_missing

DEFAULT_JAEGER = "http://localhost:16686"
ASK_AGAIN_S = 0.1  # a query API cannot tell when more has arrived
REQUEST_TIMEOUT_S = 5.0


class TraceUnavailable(Exception):
    """A trace cannot be had, for the reason given."""


async def fetch_trace(jaeger: str, trace_id: str, *, wait_s: float = 15.0) -> tuple[list[Span], str]:
    """Return a trace's spans, and what they still lack after `wait_s` seconds; empty when the trace is complete.

    Raises:
        TraceUnavailable: Jaeger cannot be reached, or knows no span of that trace.
    """
    url = f"{jaeger.rstrip('/')}/api/v3/traces/{trace_id}?raw_traces=true"  # without Jaeger's own corrections
    if not url.startswith(("http://", "https://")):
        raise TraceUnavailable(f"{jaeger} is not the address of a Jaeger, such as {DEFAULT_JAEGER}")
    until = time.monotonic() + wait_s
    while True:
        spans = await asyncio.to_thread(_get, url)
        missing = whats_missing(spans)
        if not missing or time.monotonic() >= until:
            break
        await asyncio.sleep(ASK_AGAIN_S)
    if not spans:
        raise TraceUnavailable(f"{jaeger} has no span of trace {trace_id} after {wait_s:g} s")
    return spans, missing


def _get(url: str) -> list[Span]:
    """Return what has arrived of a trace, which may be nothing."""
    try:
        with urllib.request.urlopen(url, timeout=REQUEST_TIMEOUT_S) as response:  # noqa: S310 - the scheme is checked
            return spans_of(from_json(json.load(response).get("result", {})))
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404:
                return []
            raise TraceUnavailable(f"{url} answers {error.code} {error.reason}") from None
    except (OSError, HTTPException) as error:
        raise TraceUnavailable(f"{url} cannot be reached: {getattr(error, 'reason', error)}") from None
    except (ValueError, AttributeError) as error:
        raise TraceUnavailable(f"{url} does not answer as Jaeger does: {error}") from None
