import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("replica", "experts", "engine", "engine_version", "base_model", "dtype", "quantization", "tensor_parallel_size", "context_length", "vocabulary_size", "kv_cache_tokens", "max_running", "max_in_flight", "max_message_bytes")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    QUANTIZATION_FIELD_NUMBER: _ClassVar[int]
    TENSOR_PARALLEL_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_RUNNING_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    replica: str
    experts: _containers.RepeatedCompositeFieldContainer[ServedExpert]
    engine: str
    engine_version: str
    base_model: str
    dtype: str
    quantization: str
    tensor_parallel_size: int
    context_length: int
    vocabulary_size: int
    kv_cache_tokens: int
    max_running: int
    max_in_flight: int
    max_message_bytes: int
    def __init__(self, replica: _Optional[str] = ..., experts: _Optional[_Iterable[_Union[ServedExpert, _Mapping]]] = ..., engine: _Optional[str] = ..., engine_version: _Optional[str] = ..., base_model: _Optional[str] = ..., dtype: _Optional[str] = ..., quantization: _Optional[str] = ..., tensor_parallel_size: _Optional[int] = ..., context_length: _Optional[int] = ..., vocabulary_size: _Optional[int] = ..., kv_cache_tokens: _Optional[int] = ..., max_running: _Optional[int] = ..., max_in_flight: _Optional[int] = ..., max_message_bytes: _Optional[int] = ...) -> None: ...

class ServedExpert(_message.Message):
    __slots__ = ("name", "adapter", "variant")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    name: str
    adapter: str
    variant: str
    def __init__(self, name: _Optional[str] = ..., adapter: _Optional[str] = ..., variant: _Optional[str] = ...) -> None: ...

class WatchLoadRequest(_message.Message):
    __slots__ = ("shortest_pause",)
    SHORTEST_PAUSE_FIELD_NUMBER: _ClassVar[int]
    shortest_pause: _duration_pb2.Duration
    def __init__(self, shortest_pause: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WatchLoadResponse(_message.Message):
    __slots__ = ("load",)
    LOAD_FIELD_NUMBER: _ClassVar[int]
    load: Load
    def __init__(self, load: _Optional[_Union[Load, _Mapping]] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("running", "waiting", "kv_cache_use", "tokens_per_second", "queued_prompt_tokens", "step_time", "prompt_token_time", "place_time")
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_USE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    QUEUED_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STEP_TIME_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_TIME_FIELD_NUMBER: _ClassVar[int]
    PLACE_TIME_FIELD_NUMBER: _ClassVar[int]
    running: int
    waiting: int
    kv_cache_use: float
    tokens_per_second: float
    queued_prompt_tokens: int
    step_time: _duration_pb2.Duration
    prompt_token_time: _duration_pb2.Duration
    place_time: _duration_pb2.Duration
    def __init__(self, running: _Optional[int] = ..., waiting: _Optional[int] = ..., kv_cache_use: _Optional[float] = ..., tokens_per_second: _Optional[float] = ..., queued_prompt_tokens: _Optional[int] = ..., step_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., prompt_token_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., place_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
