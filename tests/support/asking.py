"""Asking an engine directly, in tests."""

from contextlib import aclosing
from dataclasses import dataclass
from itertools import count

from expert_svc.engine import Chunk, Ended, Engine
from expertmesh.v1.expert_pb2 import Load
from expertmesh.v1.generation_pb2 import GenerateRequest, Sampling

_numbers = count(1)


@dataclass(frozen=True)
class Answered:
    """A whole answer."""

    chunks: list[Chunk]
    ended: Ended

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def token_ids(self) -> list[int]:
        return [token for chunk in self.chunks for token in chunk.token_ids]


def greedy(prompt: str = "Tell me about rivers.", **sampling: object) -> GenerateRequest:
    """Return a request for a reproducible answer of 12 tokens, unless `sampling` says otherwise."""
    return GenerateRequest(prompt=prompt, sampling=Sampling(**{"temperature": 0, "max_new_tokens": 12, **sampling}))


async def ask(engine: Engine, request: GenerateRequest, expert: str | None = None) -> Answered:
    """Return the whole answer. Checks the order: chunks that are not empty, then one end."""
    expert = expert or engine.description.experts[0].name
    async with aclosing(engine.generate(request, expert=expert, request_id=f"request {next(_numbers)}")) as stream:
        pieces = [piece async for piece in stream]
    *chunks, ended = pieces
    assert isinstance(ended, Ended)
    assert all(isinstance(chunk, Chunk) and (chunk.text or chunk.token_ids) for chunk in chunks)
    return Answered(chunks, ended)


def vacated(load: Load) -> bool:
    """Whether the engine holds no request."""
    return not any((load.running, load.waiting, load.kv_cache_use, load.queued_prompt_tokens))


def idle(load: Load) -> bool:
    """Whether nothing is going on, and nothing has been for a second."""
    return vacated(load) and not load.tokens_per_second
