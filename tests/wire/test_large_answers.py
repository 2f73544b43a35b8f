"""Answers larger than what gRPC's clients take in one message, to a reader that stalls and has no limit of ours."""

import grpc
import pytest

from expertmesh.v1.inference_pb2 import SessionRequest, SessionResponse, SessionStart
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh_wire.session_outbox import rows_of
from mesh_wire.settings import Simulation
from support.asking import greedy
from support.mesh import Node, running_expert, running_router
from support.waiting import eventually

SMALL_WINDOW = [("grpc.http2.bdp_probe", 0)]  # or gRPC would read ahead by megabytes for a reader that stalls
TOKENS = 11_000  # with 20 log-probabilities each: 5 MB, and gRPC takes 4 in a message


@pytest.mark.parametrize("behind_a_router", [False, True])
@pytest.mark.parametrize("way", ["Generate", "Session"])
async def test_a_stalled_reader_gets_all_in_messages_that_it_takes(way: str, behind_a_router: bool) -> None:
    simulation = Simulation(context_length=20_000)
    async with running_expert(simulation=simulation) as expert, running_router(expert.target) as router:
        node: Node = router if behind_a_router else expert
        async with grpc.aio.insecure_channel(node.target, options=SMALL_WINDOW) as channel:
            stub = InferenceServiceStub(channel)
            request = greedy(max_new_tokens=TOKENS, logprobs=20, ignore_eos=True)
            if way == "Generate":
                call = stub.Generate(request)
            else:
                call = stub.Session()
                await call.write(SessionRequest(starts=[SessionStart(stream_id=1, request=request)]))
            first = await call.read()
            await eventually(lambda: not expert.engine.held, 60)
            if way == "Session":
                await call.done_writing()

            messages = [first]
            while (message := await call.read()) is not grpc.aio.EOF:
                messages.append(message)

    tokens, drawn = [], []
    for message in messages:
        if isinstance(message, SessionResponse):
            deltas = [(row[2], row[3]) for row in rows_of(message.deltas)]
        else:
            deltas = [(message.delta.token_ids, message.delta.logprobs)]
        for ids, logprobs in deltas:
            tokens += ids
            drawn += [each.drawn.token_id for each in logprobs]
    assert len(tokens) == TOKENS
    assert drawn == tokens
    sizes = [message.ByteSize() for message in messages]
    assert sum(sizes) > 4 * 1024 * 1024
    assert 500_000 < max(sizes) < 1_100_000
