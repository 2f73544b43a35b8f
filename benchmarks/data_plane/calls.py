"""What a simulated engine answers, by RPC: one `Call` for each HTTP/2 stream."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

from grpc_health.v1.health_pb2 import HealthCheckResponse

from benchmarks.data_plane.http2 import END_HEADERS, END_STREAM, HEADERS, Sending, frame, literal, prefixed
from expertmesh.v1.expert_pb2 import DescribeResponse, Load, ServedExpert, WatchLoadResponse
from expertmesh.v1.generation_pb2 import Delta, Finished, FinishReason, GenerateRequest, GenerateResponse, Usage
from expertmesh.v1.inference_pb2 import SessionFinished, SessionRequest, SessionResponse

EXPERTS = ("general", "math", "coding", "health")
OPENING = b"\x88" + literal(b"content-type", b"application/grpc")
CLOSING = literal(b"grpc-status", b"0")
DEFAULT_TOKENS = 64


class Engine(Protocol):
    """What a call needs of its engine."""

    name: str
    emitted: int
    watches: list["WatchCall"]

    def load(self) -> Load: ...

    def join(self, call: "Call") -> None: ...

    def leave(self, call: "Call") -> None: ...

    def changed(self) -> None: ...


def text_of(token: int) -> str:
    return f" t{token % 1000:03d}"


@lru_cache(maxsize=100_000)
def _delta(token: int) -> bytes:
    delta = Delta(text=text_of(token), token_ids=[token])
    return prefixed(GenerateResponse(delta=delta).SerializeToString())


def _finished(tokens: int, request_id: str) -> Finished:
    usage = Usage(prompt_tokens=20, completion_tokens=tokens)
    return Finished(reason=FinishReason.FINISH_REASON_LENGTH, usage=usage, request_id=request_id)


class Call:
    """One HTTP/2 stream, answered; a subclass is one answer by `Generate`, or one session of many."""

    def __init__(self, engine: Engine, out: Sending, forget: Callable[[int], None]) -> None:
        self.engine = engine
        self.out = out
        self.forget = forget
        self.unread = b""
        head = frame(HEADERS, END_HEADERS, out.stream_id, OPENING)
        out.connection.out.append(head)

    def message(self, message: bytes) -> None: ...

    def asked_all(self) -> None:
        """The caller will send no more."""

    def step(self) -> int:
        """Give each answer its next token; return how many."""
        return 0

    def left(self) -> None:
        self.forget(self.out.stream_id)
        self.engine.leave(self)

    def close(self) -> None:
        self.out.end(frame(HEADERS, END_HEADERS | END_STREAM, self.out.stream_id, CLOSING))
        self.left()

    def data(self, data: bytes) -> None:
        self.unread += data
        while len(self.unread) >= 5 and len(self.unread) >= (over := 5 + int.from_bytes(self.unread[1:5], "big")):
            message, self.unread = self.unread[5:over], self.unread[over:]
            self.message(message)


class GenerateCall(Call):
    said = 0

    def message(self, message: bytes) -> None:
        request = GenerateRequest.FromString(message)
        self.wanted, self.request_id = request.sampling.max_new_tokens or DEFAULT_TOKENS, request.request_id
        self.engine.join(self)
        self.engine.emitted += self.step()

    def step(self) -> int:
        if self.said >= self.wanted:
            return 0
        self.said += 1
        self.out.data(_delta(self.said))
        if self.said >= self.wanted:
            finished = GenerateResponse(finished=_finished(self.said, self.request_id))
            self.out.data(prefixed(finished.SerializeToString()))
            self.close()
        return 1


class SessionCall(Call):
    def __init__(self, engine: Engine, out: Sending, forget: Callable[[int], None]) -> None:
        super().__init__(engine, out, forget)
        self.rows: dict[int, list[Any]] = {}  # stream id -> tokens said, tokens wanted, request id
        engine.join(self)

    def message(self, message: bytes) -> None:
        asked = SessionRequest.FromString(message)
        began = {}
        for start in asked.starts:
            request = start.request
            began[start.stream_id] = [0, request.sampling.max_new_tokens or DEFAULT_TOKENS, request.request_id]
        self.rows |= began
        if began:
            self.engine.emitted += self._say(began)
        for stream_id in asked.cancels:
            self.rows.pop(stream_id, None)
        self.engine.changed()

    def step(self) -> int:
        return self._say(self.rows) if self.rows else 0

    def _say(self, rows: dict[int, list[Any]]) -> int:
        for row in rows.values():
            row[0] += 1
        said = [row[0] for row in rows.values()]
        over = [stream_id for stream_id, row in rows.items() if row[0] >= row[1]]
        message = SessionResponse()
        columns = message.deltas
        columns.stream_ids.extend(rows)
        columns.texts.extend(map(text_of, said))
        columns.token_counts.extend([1] * len(said))
        columns.token_ids.extend(said)
        for stream_id in over:
            tokens, _, request_id = self.rows.pop(stream_id)
            message.finished.append(SessionFinished(stream_id=stream_id, finished=_finished(tokens, request_id)))
        self.out.data(prefixed(message.SerializeToString()))
        return len(said)

    def asked_all(self) -> None:
        self.close()


class WatchCall(Call):
    """The engine's load, at once and when it changed, as often as an expert tells it."""

    def message(self, message: bytes) -> None:
        self.told: Load | None = None
        self.engine.watches.append(self)
        self.tell()

    def tell(self) -> None:
        load = self.engine.load()
        if load != self.told and not self.out.blocked:
            self.told = load
            self.out.data(prefixed(WatchLoadResponse(load=load).SerializeToString()))


class HealthCall(Call):
    def message(self, message: bytes) -> None:
        answer = HealthCheckResponse(status=HealthCheckResponse.SERVING)
        self.out.data(prefixed(answer.SerializeToString()))


class DescribeCall(Call):
    def message(self, message: bytes) -> None:
        experts = [ServedExpert(name=name) for name in EXPERTS]
        answer = DescribeResponse(replica=self.engine.name, experts=experts, engine="steady", max_running=100_000)
        self.out.data(prefixed(answer.SerializeToString()))
        self.close()


METHODS: dict[str, type[Call]] = {
    "/expertmesh.v1.InferenceService/Generate": GenerateCall,
    "/expertmesh.v1.InferenceService/Session": SessionCall,
    "/expertmesh.v1.ExpertService/Describe": DescribeCall,
    "/expertmesh.v1.ExpertService/WatchLoad": WatchCall,
    "/grpc.health.v1.Health/Watch": HealthCall,
}
