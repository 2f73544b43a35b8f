"""Load as gRPC's own balancers read it: in trailers, out of band, and by a stock channel that balances by it."""

import asyncio
import json
from base64 import b64decode
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from expert_svc.orca import LEAST_UTILIZATION, SERVICE, TRAILER, OrcaLoadReport, OrcaLoadReportRequest, Rate, report_of
from expertmesh.v1.expert_pb2 import DescribeRequest, Load
from expertmesh.v1.generation_pb2 import GenerateRequest
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh_wire.serving import open_channel
from support.asking import greedy
from support.engines import ByHand, Loaded
from support.http2 import http2
from support.mesh import running_expert
from support.waiting import eventually


def told(trailer: dict[str, str]) -> Any:
    """The report in a call's trailer."""
    packed = trailer[TRAILER]
    return OrcaLoadReport.FromString(b64decode(packed + "=" * (-len(packed) % 4)))


async def test_every_call_ends_with_a_report_however_it_ends() -> None:
    """Seen without gRPC, whose clients keep this trailer to their balancers."""
    engine = ByHand(max_running=4)
    async with running_expert(engine=engine) as expert, http2(expert.port) as wire:
        held = [asyncio.create_task(_read(expert.inference.Generate(greedy()))) for _ in range(2)]
        await eventually(lambda: engine.held == 2)
        _, described = await wire.call("/expertmesh.v1.ExpertService/Describe", DescribeRequest())
        _, refused = await wire.call("/expertmesh.v1.InferenceService/Generate", GenerateRequest())
        engine.finish()
        await asyncio.gather(*held)
        asked = asyncio.create_task(wire.call("/expertmesh.v1.InferenceService/Generate", greedy()))
        await eventually(lambda: engine.held == 1)
        engine.finish()
        _, answered = await asked

    assert [trailer["grpc-status"] for trailer in (described, refused, answered)] == ["0", "3", "0"]
    assert [round(told(trailer).application_utilization, 2) for trailer in (described, refused)] == [0.5, 0.5]
    assert told(described).named_metrics["expertmesh.running"] == 2
    assert told(answered).rps_fractional > 0


async def _read(call: Any) -> None:
    async for _ in call:
        pass


async def test_reports_come_out_of_band_as_often_as_was_asked_for() -> None:
    engine = ByHand(max_running=2)
    async with running_expert(engine=engine) as expert:
        watch = expert.channel.unary_stream(
            f"/{SERVICE}/StreamCoreMetrics",
            request_serializer=OrcaLoadReportRequest.SerializeToString,
            response_deserializer=OrcaLoadReport.FromString,
        )(OrcaLoadReportRequest(report_interval=timedelta(milliseconds=1)))
        reports = aiter(watch)
        first: Any = await anext(reports)
        asked = asyncio.create_task(_read(expert.inference.Generate(greedy())))
        await eventually(lambda: engine.held == 1)

        async def busy() -> bool:
            report: Any = await anext(reports)
            return bool(report.application_utilization == 0.5)

        await eventually(busy)
        watch.cancel()
        engine.finish()
        await asked

    assert first.application_utilization == LEAST_UTILIZATION


async def test_a_stock_channel_with_weighted_round_robin_prefers_the_free_replica() -> None:
    """No code of ours balances here: gRPC's own policy reads our reports."""
    policy = {"blackoutPeriod": "0s", "weightUpdatePeriod": "0.1s", "errorUtilizationPenalty": 1.0}
    config = json.dumps({"loadBalancingConfig": [{"weighted_round_robin": policy}]})
    free, full = Loaded(running=4), Loaded(running=60)
    async with running_expert(engine=free) as one, running_expert(engine=full) as other:
        addresses = f"ipv4:127.0.0.1:{one.port},127.0.0.1:{other.port}"
        async with open_channel(addresses, service_config=config) as channel:
            stub = InferenceServiceStub(channel)

            async def prefers_the_free_one() -> bool:
                before = free.answered, full.answered
                for _ in range(40):
                    await _read(stub.Generate(greedy()))
                return free.answered - before[0] > 5 * (full.answered - before[1]) > 0

            await eventually(prefers_the_free_one, within_s=60)


@given(st.builds(Load, running=st.integers(0, 2000), waiting=st.integers(0, 2000), kv_cache_use=st.floats(0, 1)))
def test_a_fuller_engine_never_looks_freer(load: Load) -> None:
    report: Any = report_of(load, 64, 1.0)
    fuller = Load()
    fuller.CopyFrom(load)
    fuller.waiting += 1
    more: Any = report_of(fuller, 64, 1.0)

    assert LEAST_UTILIZATION <= report.application_utilization <= more.application_utilization


def test_a_rate_is_of_the_last_whole_second() -> None:
    now, count = 0.0, 0
    rate = Rate(lambda: count, clock=lambda: now)

    assert rate.now() == 0
    now, count = 0.5, 10
    assert rate.now() == 20  # young: over what there is
    now, count = 2.0, 40
    assert rate.now() == 20
    now, count = 2.5, 1000
    assert rate.now() == 20, "not before the second is over"
    now, count = 4.0, 42
    assert rate.now() == 1
