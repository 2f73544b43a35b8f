"""ORCA load reports, which gRPC's own balancers read: in the trailer of every call, and out of band.

The definition is xds': `xds/data/orca/v3/orca_load_report.proto` and `xds/service/orca/v3/orca.proto`. Its messages are
made here, in a pool of their own: the package `xds-protos` overwrites files of `googleapis-common-protos` and
`opentelemetry-proto` with its own, so it cannot be installed beside them.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory
from google.protobuf.message import Message

from expertmesh.v1.expert_pb2 import DescribeResponse, Load
from mesh_wire.deadlines import seconds

SERVICE = "xds.service.orca.v3.OpenRcaService"
TRAILER = "endpoint-load-metrics-bin"
SHORTEST_INTERVAL_S, USUAL_INTERVAL_S = 0.1, 30.0  # between two reports out of band
RATE_OVER_S = 1.0
# An idle engine is not infinitely fast: gRPC's weight is requests per second over utilisation, and 0 is "not told".
LEAST_UTILIZATION = 0.01

_Field = descriptor_pb2.FieldDescriptorProto


def _messages() -> tuple[type[Message], type[Message]]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(duration_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="expertmesh/orca.proto",
        package="xds.data.orca.v3",
        syntax="proto3",
        dependency=[duration_pb2.DESCRIPTOR.name],
    )
    report = file.message_type.add(name="OrcaLoadReport")
    named = report.nested_type.add(name="NamedMetricsEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    named.field.add(name="key", number=1, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
    named.field.add(name="value", number=2, type=_Field.TYPE_DOUBLE, label=_Field.LABEL_OPTIONAL)
    for name, number in (("mem_utilization", 2), ("rps_fractional", 6), ("application_utilization", 9)):
        report.field.add(name=name, number=number, type=_Field.TYPE_DOUBLE, label=_Field.LABEL_OPTIONAL)
    report.field.add(
        name="named_metrics",
        number=8,
        type=_Field.TYPE_MESSAGE,
        type_name=".xds.data.orca.v3.OrcaLoadReport.NamedMetricsEntry",
        label=_Field.LABEL_REPEATED,
    )
    request = file.message_type.add(name="OrcaLoadReportRequest")
    request.field.add(
        name="report_interval",
        number=1,
        type=_Field.TYPE_MESSAGE,
        type_name=".google.protobuf.Duration",
        label=_Field.LABEL_OPTIONAL,
    )
    made = pool.AddSerializedFile(file.SerializeToString()).message_types_by_name
    classes = {name: message_factory.GetMessageClass(one) for name, one in made.items()}
    return classes["OrcaLoadReport"], classes["OrcaLoadReportRequest"]


OrcaLoadReport, OrcaLoadReportRequest = _messages()


class Rate:
    """Events per second, over about a second, from a count that only grows."""

    def __init__(self, count: Callable[[], int], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._count = count
        self._clock = clock
        self._since, self._then = clock(), count()
        self._rate = 0.0

    def now(self) -> float:
        """Return the rate as it was over the last whole second; younger than that, over what there is."""
        now, count = self._clock(), self._count()
        passed_s = now - self._since
        if passed_s >= RATE_OVER_S or not self._rate:
            self._rate = (count - self._then) / passed_s if passed_s > 0 else 0.0
        if passed_s >= RATE_OVER_S:
            self._since, self._then = now, count
        return self._rate


def named_metrics(load: Load) -> Mapping[str, float]:
    """Return what else a load says, by ORCA's rule for names: what a balancer of one's own may look for."""
    return {
        "expertmesh.running": load.running,
        "expertmesh.waiting": load.waiting,
        "expertmesh.kv_cache_use": load.kv_cache_use,
        "expertmesh.queued_prompt_tokens": load.queued_prompt_tokens,
        "expertmesh.tokens_per_second": load.tokens_per_second,
        "expertmesh.step_time_ms": 1000 * seconds(load.step_time),
    }


def report_of(load: Load, max_running: int, per_second: float) -> Message:
    """Return an `OrcaLoadReport`.

    Utilisation is of what runs out first: places in the batch (over 1 where requests wait) or KV cache.

    Args:
        max_running: sequences that the engine runs at once.
        per_second: requests that ended lately.
    """
    places = (load.running + load.waiting) / max(1, max_running)
    return OrcaLoadReport(
        mem_utilization=load.kv_cache_use,
        rps_fractional=per_second,
        application_utilization=max(LEAST_UTILIZATION, places, load.kv_cache_use),
        named_metrics=named_metrics(load),
    )


class Orca:
    """Tells of one engine's load."""

    def __init__(self, latest: Callable[[], Load], description: DescribeResponse, ended: Callable[[], int]) -> None:
        """Args:
        latest: the load.
        ended: how many requests have ended since the start.
        """
        self._latest = latest
        self._max_running = description.max_running
        self._rate = Rate(ended)

    def report(self) -> Message:
        """Return an `OrcaLoadReport` of this moment."""
        return report_of(self._latest(), self._max_running, self._rate.now())

    def trailer(self) -> tuple[tuple[str, bytes], ...]:
        """Return the metadata that ends a call."""
        return ((TRAILER, self.report().SerializeToString()),)

    def register(self, server: grpc.aio.Server) -> None:
        """Serve `OpenRcaService`."""

        async def stream_core_metrics(
            request: Any, context: grpc.aio.ServicerContext[Any, Any]
        ) -> AsyncGenerator[Message, None]:
            asked_s = seconds(request.report_interval) if request.HasField("report_interval") else USUAL_INTERVAL_S
            pause_s = max(SHORTEST_INTERVAL_S, asked_s)
            while True:
                yield self.report()
                await asyncio.sleep(pause_s)

        handler = grpc.unary_stream_rpc_method_handler(
            stream_core_metrics,
            request_deserializer=OrcaLoadReportRequest.FromString,
            response_serializer=OrcaLoadReport.SerializeToString,
        )
        handlers = grpc.method_handlers_generic_handler(SERVICE, {"StreamCoreMetrics": handler})
        server.add_generic_rpc_handlers((handlers,))
