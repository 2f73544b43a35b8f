"""What a service measures, under the names of the GenAI and RPC conventions where these have one; see docs/metrics.md.

Everything here is recorded once a request, a decision or a call, never once a token. Labels have few values: names of
experts and replicas, reasons, statuses. What a caller wrote is in none of them.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry import metrics

from expertmesh.v1.errors_pb2 import ErrorReason
from mesh_wire.errors import MeshError

# Bounds that fit answers of language models, in seconds: those that the semantic conventions advise for GenAI servers.
REQUEST_BOUNDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
PER_TOKEN_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
# Theirs end at 10 s; with a queue before it, a first token takes longer, and a quantile beyond the last bound is lost.
FIRST_TOKEN_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)
CALL_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
MARGIN_BOUNDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
CLASSIFY_BOUNDS = (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Instruments:
    """The metrics of a service that are recorded as things happen."""

    request_duration: metrics.Histogram
    time_to_first_token: metrics.Histogram
    time_per_output_token: metrics.Histogram
    call_duration: metrics.Histogram
    in_flight: metrics.UpDownCounter
    refused: metrics.Counter
    tokens: metrics.Counter
    decisions: metrics.Counter
    second_attempts: metrics.Counter
    resumes: metrics.Counter
    attempts_refused: metrics.Counter
    hedges: metrics.Counter
    classify_duration: metrics.Histogram
    classified: metrics.Counter
    margin: metrics.Histogram
    reloads: metrics.Counter
    merged: metrics.Counter
    direct_requests: metrics.Counter
    direct_tokens: metrics.Counter

    @contextmanager
    def call(self, method: str) -> Iterator[None]:
        """Measure a call that has one answer; streams, which last as long as their readers like, are not measured.

        Args:
            method: its full name, such as `expertmesh.v1.RouterService/Route`.
        """
        began, labels = time.monotonic(), {"rpc.system.name": "grpc", "rpc.method": method}
        outcome = {"rpc.response.status_code": "CANCELLED"}
        try:
            yield
            outcome = {"rpc.response.status_code": "OK"}
        except MeshError as error:
            outcome = {"rpc.response.status_code": error.code.name, "error.type": failure_word(error)}
            raise
        except Exception:
            outcome = {"rpc.response.status_code": "INTERNAL", "error.type": "INTERNAL"}
            raise
        finally:
            self.call_duration.record(time.monotonic() - began, labels | outcome)


def instruments_of(meter: metrics.Meter) -> Instruments:
    """Create a service's instruments."""

    def times(name: str, description: str, bounds: Sequence[float], unit: str = "s") -> metrics.Histogram:
        return meter.create_histogram(
            name, unit=unit, description=description, explicit_bucket_boundaries_advisory=list(bounds)
        )

    def counts(name: str, what: str, description: str) -> metrics.Counter:
        return meter.create_counter(name, unit=f"{{{what}}}", description=description)

    return Instruments(
        request_duration=times("gen_ai.server.request.duration", "Time from request to last token", REQUEST_BOUNDS),
        time_to_first_token=times(
            "gen_ai.server.time_to_first_token", "Time from request to first token", FIRST_TOKEN_BOUNDS
        ),
        time_per_output_token=times(
            "gen_ai.server.time_per_output_token", "Time per token after the first", PER_TOKEN_BOUNDS
        ),
        call_duration=times("rpc.server.call.duration", "Time that a call of Route took", CALL_BOUNDS),
        in_flight=meter.create_up_down_counter(
            "expertmesh.requests.in_flight", unit="{request}", description="Requests being answered"
        ),
        refused=counts("expertmesh.admission.refused", "request", "Requests refused, by reason"),
        tokens=counts("expertmesh.tokens", "token", "Tokens of answers, counted when these end"),
        decisions=counts("expertmesh.route.decisions", "request", "Routes, by expert and reason"),
        second_attempts=counts(
            "expertmesh.route.second_attempts", "request", "Requests given to another replica after one failed them"
        ),
        resumes=counts(
            "expertmesh.route.resumes", "request", "Answers that went on at another replica after one failed them"
        ),
        attempts_refused=counts(
            "expertmesh.route.attempts_refused", "request", "Attempts that there was no budget for any more"
        ),
        hedges=counts(
            "expertmesh.route.hedges", "request", "Requests given to a second replica since the first was late"
        ),
        classify_duration=times("expertmesh.route.classify.duration", "Time from text to scores", CLASSIFY_BOUNDS),
        classified=counts(
            "expertmesh.route.classified",
            "prompt",
            "Prompts scored, by the strategy intended, who decided, and why another did",
        ),
        margin=times("expertmesh.route.margin", "Best score less the second best", MARGIN_BOUNDS, "1"),
        reloads=counts("expertmesh.reloads", "reload", "Readings of changed files, by outcome"),
        merged=counts("expertmesh.deltas.merged", "delta", "Deltas that left with another of their answer"),
        direct_requests=counts("expertmesh.direct.requests", "request", "Direct requests that ended"),
        direct_tokens=counts("expertmesh.direct.tokens", "token", "Tokens of direct requests"),
    )


_REASONS = frozenset(name.removeprefix("ERROR_REASON_") for name, _ in ErrorReason.items())
# Reasons that say nothing of the request but how much else there is.
REFUSALS = ("ROUTER_BUSY", "EXPERT_BUSY", "DRAINING", "CALLER_BUSY", "CALLER_RATE", "DEADLINE_TOO_SHORT")


def failure_word(error: MeshError) -> str:
    """Return an error as a label: its reason, or, of a server that speaks otherwise, the name of its status."""
    return error.reason if error.reason in _REASONS else error.code.name


Values = Callable[[], Iterable[tuple[float, Labels]]]


def observed(values: Values) -> Callable[[metrics.CallbackOptions], list[metrics.Observation]]:
    """Return the callback of an instrument that is asked whenever metrics are collected, in a thread beside the event
    loop: `values` must stand being called while everything it reads changes."""

    def observe(options: metrics.CallbackOptions) -> list[metrics.Observation]:
        return [metrics.Observation(value, labels) for value, labels in values()]

    return observe
