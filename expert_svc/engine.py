"""What an expert needs of an engine, and the words in which the two speak."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from expert_svc.load_board import LoadBoard
from expertmesh.v1.expert_pb2 import DescribeResponse
from expertmesh.v1.generation_pb2 import FinishReason, GenerateRequest, TokenLogprobs


@dataclass(frozen=True, slots=True)
class Chunk:
    """The new tokens of one request from one engine step."""

    text: str
    token_ids: Sequence[int]
    logprobs: Sequence[TokenLogprobs] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Milestones:
    """When one request passed each point of the engine, in seconds of `time.monotonic`; None if it never did."""

    queued: float | None
    scheduled: float | None
    first_token: float | None
    last_token: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end of one request's tokens."""

    reason: FinishReason
    matched: str | int | None = None  # the stop string or stop token of the request that was met
    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int = 0
    milestones: Milestones


class EngineFailed(Exception):
    """The engine cannot start. The text says why, in one line."""


class EngineDied(Exception):
    """The engine is gone and will not come back in this process. The text says why, in one line."""


class Engine(Protocol):
    """Turns requests into tokens."""

    @property
    def description(self) -> DescribeResponse:
        """What is served; `replica`, `max_in_flight` and `max_message_bytes` are filled in by the caller."""

    @property
    def board(self) -> LoadBoard:
        """Where the engine posts its load."""

    def generate(
        self, request: GenerateRequest, *, expert: str, request_id: str
    ) -> AsyncGenerator[Chunk | Ended, None]:
        """Yield chunks as they come, and at last one `Ended`.

        Closing the generator, at any point, releases everything the request holds.

        Args:
            request: already checked by `mesh_wire.validation`, model-independent rules only.
            expert: one of the experts of `description`.
            request_id: unique among the running requests of this engine.

        Raises:
            BadInput: the model cannot take this request (too long, unknown token, unusable schema ...).
            EngineDied: the engine is gone.
        """

    async def died(self) -> str:
        """Wait until the engine is gone; returns why, in one line. Waits forever on a healthy engine."""
