import datetime

from expertmesh.v1 import generation_pb2 as _generation_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionRequest(_message.Message):
    __slots__ = ("starts", "cancels", "kept_traces", "kept_streams")
    STARTS_FIELD_NUMBER: _ClassVar[int]
    CANCELS_FIELD_NUMBER: _ClassVar[int]
    KEPT_TRACES_FIELD_NUMBER: _ClassVar[int]
    KEPT_STREAMS_FIELD_NUMBER: _ClassVar[int]
    starts: _containers.RepeatedCompositeFieldContainer[SessionStart]
    cancels: _containers.RepeatedScalarFieldContainer[int]
    kept_traces: _containers.RepeatedScalarFieldContainer[str]
    kept_streams: _containers.RepeatedCompositeFieldContainer[KeptStream]
    def __init__(self, starts: _Optional[_Iterable[_Union[SessionStart, _Mapping]]] = ..., cancels: _Optional[_Iterable[int]] = ..., kept_traces: _Optional[_Iterable[str]] = ..., kept_streams: _Optional[_Iterable[_Union[KeptStream, _Mapping]]] = ...) -> None: ...

class KeptStream(_message.Message):
    __slots__ = ("session", "stream_id", "traceparent")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    session: str
    stream_id: int
    traceparent: str
    def __init__(self, session: _Optional[str] = ..., stream_id: _Optional[int] = ..., traceparent: _Optional[str] = ...) -> None: ...

class SessionStart(_message.Message):
    __slots__ = ("stream_id", "request", "timeout", "traceparent", "tracestate", "caller", "ticket")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    stream_id: int
    request: _generation_pb2.GenerateRequest
    timeout: _duration_pb2.Duration
    traceparent: str
    tracestate: str
    caller: str
    ticket: str
    def __init__(self, stream_id: _Optional[int] = ..., request: _Optional[_Union[_generation_pb2.GenerateRequest, _Mapping]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ..., caller: _Optional[str] = ..., ticket: _Optional[str] = ...) -> None: ...

class SessionResponse(_message.Message):
    __slots__ = ("routes", "deltas", "finished", "failed")
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    DELTAS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    routes: _containers.RepeatedCompositeFieldContainer[SessionRoute]
    deltas: DeltaColumns
    finished: _containers.RepeatedCompositeFieldContainer[SessionFinished]
    failed: _containers.RepeatedCompositeFieldContainer[SessionFailed]
    def __init__(self, routes: _Optional[_Iterable[_Union[SessionRoute, _Mapping]]] = ..., deltas: _Optional[_Union[DeltaColumns, _Mapping]] = ..., finished: _Optional[_Iterable[_Union[SessionFinished, _Mapping]]] = ..., failed: _Optional[_Iterable[_Union[SessionFailed, _Mapping]]] = ...) -> None: ...

class SessionRoute(_message.Message):
    __slots__ = ("stream_id", "route")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    stream_id: int
    route: _generation_pb2.RouteChosen
    def __init__(self, stream_id: _Optional[int] = ..., route: _Optional[_Union[_generation_pb2.RouteChosen, _Mapping]] = ...) -> None: ...

class DeltaColumns(_message.Message):
    __slots__ = ("stream_ids", "texts", "token_counts", "token_ids", "logprobs")
    STREAM_IDS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNTS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    stream_ids: _containers.RepeatedScalarFieldContainer[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    token_counts: _containers.RepeatedScalarFieldContainer[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedCompositeFieldContainer[RowLogprobs]
    def __init__(self, stream_ids: _Optional[_Iterable[int]] = ..., texts: _Optional[_Iterable[str]] = ..., token_counts: _Optional[_Iterable[int]] = ..., token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[_Union[RowLogprobs, _Mapping]]] = ...) -> None: ...

class RowLogprobs(_message.Message):
    __slots__ = ("row", "tokens")
    ROW_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    row: int
    tokens: _containers.RepeatedCompositeFieldContainer[_generation_pb2.TokenLogprobs]
    def __init__(self, row: _Optional[int] = ..., tokens: _Optional[_Iterable[_Union[_generation_pb2.TokenLogprobs, _Mapping]]] = ...) -> None: ...

class SessionFinished(_message.Message):
    __slots__ = ("stream_id", "finished")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    stream_id: int
    finished: _generation_pb2.Finished
    def __init__(self, stream_id: _Optional[int] = ..., finished: _Optional[_Union[_generation_pb2.Finished, _Mapping]] = ...) -> None: ...

class SessionFailed(_message.Message):
    __slots__ = ("stream_id", "status")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    stream_id: int
    status: _status_pb2.Status
    def __init__(self, stream_id: _Optional[int] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...
