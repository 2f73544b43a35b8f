"""Bytes that no honest caller sends: random, and messages of honest callers with something changed in them."""

import random
from collections.abc import Iterator
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import Message

from expertmesh.v1.expert_pb2 import DescribeRequest, WatchLoadRequest
from expertmesh.v1.generation_pb2 import GenerateRequest
from expertmesh.v1.inference_pb2 import SessionRequest
from expertmesh.v1.router_pb2 import ListExpertsRequest, RouteRequest, RouteSessionRequest

INFERENCE, ROUTER, EXPERT = (f"/expertmesh.v1.{name}Service/" for name in ("Inference", "Router", "Expert"))

# Every message that a server takes, by the path that takes it.
TAKES: dict[str, type[Message]] = {
    f"{INFERENCE}Generate": GenerateRequest,
    f"{INFERENCE}Session": SessionRequest,
    f"{ROUTER}Route": RouteRequest,
    f"{ROUTER}RouteSession": RouteSessionRequest,
    f"{ROUTER}ListExperts": ListExpertsRequest,
    f"{EXPERT}Describe": DescribeRequest,
    f"{EXPERT}WatchLoad": WatchLoadRequest,
}

_ASKED = (
    'prompt: "What is 7 times 8?"',
    'prompt: "x" request_id: "one" expert: "general" conversation: "c"',
    'chat { messages { role: ROLE_SYSTEM parts { text: "Be" } } messages { role: ROLE_USER parts { text: "Hi" } } }',
    "token_ids { ids: 1 ids: 2 ids: 300 }",
    'prompt: "x" sampling { temperature: 0 max_new_tokens: 3 stop: "a" stop: "bc" stop_token_ids: 7 seed: 5 top_k: 3 }',
    'prompt: "x" sampling { logprobs: 2 top_p: 0.5 min_p: 0.1 logit_bias { key: 5 value: 1.5 } min_new_tokens: 1 }',
    'prompt: "x" sampling { structured_output { json_schema: "{\\"type\\": \\"object\\"}" } }',
    'prompt: "x" sampling { structured_output { choice { options: "yes" options: "no" } } }',
    'prompt: "x" sampling { structured_output { regex: "(a|b)+" } }',
    'prompt: "x" resume { token_ids: 5 token_ids: 6 text: "ab" } sampling { temperature: 0 max_new_tokens: 9 }',
)
_SEEDS: dict[type[Message], tuple[str, ...]] = {
    GenerateRequest: _ASKED,
    SessionRequest: (
        *(f"starts {{ stream_id: {n + 1} request {{ {asked} }} }}" for n, asked in enumerate(_ASKED)),
        f'starts {{ stream_id: 1 timeout {{ seconds: 2 }} caller: "me" request {{ {_ASKED[0]} }} }} cancels: 1',
        f'starts {{ stream_id: 1 traceparent: "00-{"a" * 32}-{"b" * 16}-01" request {{ {_ASKED[0]} }} }}',
        "cancels: 1 cancels: 99",
    ),
    RouteRequest: tuple(f"request {{ {asked} }}" for asked in _ASKED),
    RouteSessionRequest: (
        *(f"asks {{ route_id: {n + 1} request {{ {asked} }} }}" for n, asked in enumerate(_ASKED)),
        f'asks {{ route_id: 1 reserve: true timeout {{ seconds: 2 }} excluded: "a:1" request {{ {_ASKED[0]} }} }}',
        "reports { route_id: 1 }",
    ),
    ListExpertsRequest: ("",),
    DescribeRequest: ("",),
    WatchLoadRequest: ("shortest_pause { seconds: 1 }",),
}

# What once broke something, or nearly: message, bytes in hexadecimal.
CORPUS: tuple[tuple[type[Message], str], ...] = (
    (SessionRequest, "0a0f08011a030a0178220608ffffffff07"),
    (GenerateRequest, "12" + "80" * 9 + "01"),  # a length of 2^63
    (GenerateRequest, "1202c328"),  # not UTF-8
    (GenerateRequest, "0b" * 200),  # groups in groups
)


def seeds(kind: type[Message]) -> list[bytes]:
    """Return honest messages of a kind."""
    return [text_format.Parse(text, kind()).SerializeToString() for text in _SEEDS[kind]]


def mutants(draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield paths and bytes for ever; the same for the same state of `draw`."""
    honest = {path: seeds(kind) for path, kind in TAKES.items()}
    every = [data for data_of_one in honest.values() for data in data_of_one]
    while True:
        path = draw.choice(list(TAKES))
        data = bytearray(draw.choice(honest[path]))
        for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
            draw.choice(_CHANGES)(draw, data, every)
        yield path, bytes(data)


def _flip(draw: random.Random, data: bytearray, every: list[bytes]) -> None:
    if data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _overwrite(draw: random.Random, data: bytearray, every: list[bytes]) -> None:
    if data:
        data[draw.randrange(len(data))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))


def _cut(draw: random.Random, data: bytearray, every: list[bytes]) -> None:
    del data[draw.randrange(len(data) + 1) :]


def _drop(draw: random.Random, data: bytearray, every: list[bytes]) -> None:
    at = draw.randrange(len(data) + 1)
    del data[at : at + draw.randrange(1, 9)]


def _insert(draw: random.Random, data: bytearray, every: list[bytes]) -> None:
    at = draw.randrange(len(data) + 1)
    data[at:at] = draw.randbytes(draw.randrange(1, 17))


def _repeat(draw: random.Random, data: bytearray, every: list[bytes]) -> None:
    at = draw.randrange(len(data) + 1)
    data[at:at] = bytes(data[at : at + draw.randrange(1, 33)]) * draw.randrange(1, 65)


def _huge_number(draw: random.Random, data: bytearray, every: list[bytes]) -> None:
    at = draw.randrange(len(data) + 1)
    data[at:at] = b"\xff" * draw.randrange(4, 10) + b"\x7f"


def _splice(draw: random.Random, data: bytearray, every: list[bytes]) -> None:
    at = draw.randrange(len(data) + 1)
    data[at:] = draw.choice(every)


def _nothing_of_it(draw: random.Random, data: bytearray, every: list[bytes]) -> None:
    data[:] = draw.randbytes(draw.randrange(65))


_CHANGES: tuple[Any, ...] = (
    _flip,
    _overwrite,
    _cut,
    _drop,
    _insert,
    _repeat,
    _huge_number,
    _splice,
    _nothing_of_it,
)
