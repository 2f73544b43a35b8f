"""Prompts to scores, in batches of whatever is waiting."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from expertmesh.v1.generation_pb2 import GenerateRequest, Role
from router_svc.strategy import Strategy

Scores = list[dict[str, float]]

READ_CHARACTERS = 8192  # of each end of a text


@dataclass(slots=True)
class _Batch:
    texts: list[str] = field(default_factory=list)
    done: list[tuple[int, asyncio.Future[Scores]]] = field(default_factory=list)  # with the number of its texts


class Classifier:
    """Scores prompts by one strategy. Those that arrive in the same turn of the event loop share a batch; none waits
    for company."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self._batch = _Batch()

    async def scores(self, text: str) -> dict[str, float]:
        """Return the probability of each expert, or domain, of the strategy."""
        return (await self.scores_of([text]))[0]

    async def scores_of(self, texts: Sequence[str]) -> Scores:
        """Return the same for each of several texts."""
        loop = asyncio.get_running_loop()
        if not self._batch.texts:
            loop.call_soon(self._score)
        done: asyncio.Future[Scores] = loop.create_future()
        self._batch.texts.extend(texts)
        self._batch.done.append((len(texts), done))
        return await done

    def _score(self) -> None:
        batch, self._batch = self._batch, _Batch()
        try:
            rows = self.strategy.scores(batch.texts).tolist()
        except Exception as error:  # the callers' business: each gets INTERNAL, and the log the traceback
            for _, done in batch.done:
                if not done.done():
                    done.set_exception(error)
            return
        at = 0
        for count, done in batch.done:
            if not done.done():
                own = rows[at : at + count]
                done.set_result([dict(zip(self.strategy.experts, row, strict=True)) for row in own])
            at += count


def text_of(request: GenerateRequest) -> str:
    """Return what a router reads of a request: the prompt, or a conversation's last user turn. Token ids have none.

    Of a very long text, head and tail: a prompt of megabytes must not hold the event loop.
    """
    text = ""
    match request.WhichOneof("input"):
        case "prompt":
            text = request.prompt
        case "chat":
            turns = (message for message in reversed(request.chat.messages) if message.role == Role.ROLE_USER)
            text = "".join(part.text for part in next(turns).parts)
    return text if len(text) <= 2 * READ_CHARACTERS else f"{text[:READ_CHARACTERS]}\n{text[-READ_CHARACTERS:]}"
