import datetime

from expertmesh.v1 import expert_pb2 as _expert_pb2
from expertmesh.v1 import generation_pb2 as _generation_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RouteRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: _generation_pb2.GenerateRequest
    def __init__(self, request: _Optional[_Union[_generation_pb2.GenerateRequest, _Mapping]] = ...) -> None: ...

class RouteResponse(_message.Message):
    __slots__ = ("route", "endpoint", "ticket", "scores", "threshold", "margin", "replicas", "timings", "options", "grounds")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    GROUNDS_FIELD_NUMBER: _ClassVar[int]
    route: _generation_pb2.RouteChosen
    endpoint: str
    ticket: str
    scores: _containers.RepeatedCompositeFieldContainer[_generation_pb2.ExpertScore]
    threshold: float
    margin: float
    replicas: _containers.RepeatedCompositeFieldContainer[ReplicaWeighed]
    timings: _generation_pb2.StageTimings
    options: _containers.RepeatedCompositeFieldContainer[RouteOption]
    grounds: RouteGrounds
    def __init__(self, route: _Optional[_Union[_generation_pb2.RouteChosen, _Mapping]] = ..., endpoint: _Optional[str] = ..., ticket: _Optional[str] = ..., scores: _Optional[_Iterable[_Union[_generation_pb2.ExpertScore, _Mapping]]] = ..., threshold: _Optional[float] = ..., margin: _Optional[float] = ..., replicas: _Optional[_Iterable[_Union[ReplicaWeighed, _Mapping]]] = ..., timings: _Optional[_Union[_generation_pb2.StageTimings, _Mapping]] = ..., options: _Optional[_Iterable[_Union[RouteOption, _Mapping]]] = ..., grounds: _Optional[_Union[RouteGrounds, _Mapping]] = ...) -> None: ...

class RouteOption(_message.Message):
    __slots__ = ("expert", "variant", "score", "expected_wait", "price", "verdict")
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_WAIT_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    expert: str
    variant: str
    score: float
    expected_wait: _duration_pb2.Duration
    price: _duration_pb2.Duration
    verdict: str
    def __init__(self, expert: _Optional[str] = ..., variant: _Optional[str] = ..., score: _Optional[float] = ..., expected_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., price: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., verdict: _Optional[str] = ...) -> None: ...

class RouteGrounds(_message.Message):
    __slots__ = ("policy", "chance", "pinned", "precision", "conversation", "excluded", "fleet")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    CHANCE_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_FIELD_NUMBER: _ClassVar[int]
    FLEET_FIELD_NUMBER: _ClassVar[int]
    policy: RoutePolicy
    chance: float
    pinned: str
    precision: _generation_pb2.Precision
    conversation: int
    excluded: _containers.RepeatedScalarFieldContainer[str]
    fleet: _containers.RepeatedCompositeFieldContainer[ReplicaWeighed]
    def __init__(self, policy: _Optional[_Union[RoutePolicy, _Mapping]] = ..., chance: _Optional[float] = ..., pinned: _Optional[str] = ..., precision: _Optional[_Union[_generation_pb2.Precision, str]] = ..., conversation: _Optional[int] = ..., excluded: _Optional[_Iterable[str]] = ..., fleet: _Optional[_Iterable[_Union[ReplicaWeighed, _Mapping]]] = ...) -> None: ...

class RoutePolicy(_message.Message):
    __slots__ = ("generalist", "threshold", "spill_ms_per_point", "quality_floor", "sibling_ms", "affinity_ms", "stale_after_s")
    GENERALIST_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SPILL_MS_PER_POINT_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FLOOR_FIELD_NUMBER: _ClassVar[int]
    SIBLING_MS_FIELD_NUMBER: _ClassVar[int]
    AFFINITY_MS_FIELD_NUMBER: _ClassVar[int]
    STALE_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    generalist: str
    threshold: float
    spill_ms_per_point: float
    quality_floor: float
    sibling_ms: float
    affinity_ms: float
    stale_after_s: float
    def __init__(self, generalist: _Optional[str] = ..., threshold: _Optional[float] = ..., spill_ms_per_point: _Optional[float] = ..., quality_floor: _Optional[float] = ..., sibling_ms: _Optional[float] = ..., affinity_ms: _Optional[float] = ..., stale_after_s: _Optional[float] = ...) -> None: ...

class RouteSessionRequest(_message.Message):
    __slots__ = ("asks", "reports")
    ASKS_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    asks: _containers.RepeatedCompositeFieldContainer[RouteAsk]
    reports: _containers.RepeatedCompositeFieldContainer[RouteReport]
    def __init__(self, asks: _Optional[_Iterable[_Union[RouteAsk, _Mapping]]] = ..., reports: _Optional[_Iterable[_Union[RouteReport, _Mapping]]] = ...) -> None: ...

class RouteAsk(_message.Message):
    __slots__ = ("route_id", "request", "timeout", "traceparent", "tracestate", "caller", "explain", "reserve", "excluded")
    ROUTE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    RESERVE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_FIELD_NUMBER: _ClassVar[int]
    route_id: int
    request: _generation_pb2.GenerateRequest
    timeout: _duration_pb2.Duration
    traceparent: str
    tracestate: str
    caller: str
    explain: bool
    reserve: bool
    excluded: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, route_id: _Optional[int] = ..., request: _Optional[_Union[_generation_pb2.GenerateRequest, _Mapping]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ..., caller: _Optional[str] = ..., explain: _Optional[bool] = ..., reserve: _Optional[bool] = ..., excluded: _Optional[_Iterable[str]] = ...) -> None: ...

class RouteReport(_message.Message):
    __slots__ = ("route_id", "usage", "failure")
    ROUTE_ID_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    route_id: int
    usage: _generation_pb2.Usage
    failure: _status_pb2.Status
    def __init__(self, route_id: _Optional[int] = ..., usage: _Optional[_Union[_generation_pb2.Usage, _Mapping]] = ..., failure: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class RouteSessionResponse(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[RouteAnswer]
    def __init__(self, answers: _Optional[_Iterable[_Union[RouteAnswer, _Mapping]]] = ...) -> None: ...

class RouteAnswer(_message.Message):
    __slots__ = ("route_id", "decision", "failure")
    ROUTE_ID_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    route_id: int
    decision: RouteResponse
    failure: _status_pb2.Status
    def __init__(self, route_id: _Optional[int] = ..., decision: _Optional[_Union[RouteResponse, _Mapping]] = ..., failure: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class ReplicaWeighed(_message.Message):
    __slots__ = ("replica", "endpoint", "expected_wait", "load", "outstanding", "untold", "load_age", "stale", "serving", "max_running", "experts")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_WAIT_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_FIELD_NUMBER: _ClassVar[int]
    UNTOLD_FIELD_NUMBER: _ClassVar[int]
    LOAD_AGE_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    MAX_RUNNING_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    replica: str
    endpoint: str
    expected_wait: _duration_pb2.Duration
    load: _expert_pb2.Load
    outstanding: int
    untold: int
    load_age: _duration_pb2.Duration
    stale: bool
    serving: bool
    max_running: int
    experts: _containers.RepeatedCompositeFieldContainer[_expert_pb2.ServedExpert]
    def __init__(self, replica: _Optional[str] = ..., endpoint: _Optional[str] = ..., expected_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., load: _Optional[_Union[_expert_pb2.Load, _Mapping]] = ..., outstanding: _Optional[int] = ..., untold: _Optional[int] = ..., load_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., stale: _Optional[bool] = ..., serving: _Optional[bool] = ..., max_running: _Optional[int] = ..., experts: _Optional[_Iterable[_Union[_expert_pb2.ServedExpert, _Mapping]]] = ...) -> None: ...

class ListExpertsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListExpertsResponse(_message.Message):
    __slots__ = ("experts", "generalist", "strategy", "artefact", "unreachable", "generation", "not_taken", "left_for_restart", "strategy_trouble", "drift", "process")
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    GENERALIST_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    ARTEFACT_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    NOT_TAKEN_FIELD_NUMBER: _ClassVar[int]
    LEFT_FOR_RESTART_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_TROUBLE_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    experts: _containers.RepeatedCompositeFieldContainer[Expert]
    generalist: str
    strategy: str
    artefact: str
    unreachable: _containers.RepeatedCompositeFieldContainer[Unreachable]
    generation: int
    not_taken: _containers.RepeatedScalarFieldContainer[str]
    left_for_restart: _containers.RepeatedScalarFieldContainer[str]
    strategy_trouble: str
    drift: Drift
    process: RouterProcess
    def __init__(self, experts: _Optional[_Iterable[_Union[Expert, _Mapping]]] = ..., generalist: _Optional[str] = ..., strategy: _Optional[str] = ..., artefact: _Optional[str] = ..., unreachable: _Optional[_Iterable[_Union[Unreachable, _Mapping]]] = ..., generation: _Optional[int] = ..., not_taken: _Optional[_Iterable[str]] = ..., left_for_restart: _Optional[_Iterable[str]] = ..., strategy_trouble: _Optional[str] = ..., drift: _Optional[_Union[Drift, _Mapping]] = ..., process: _Optional[_Union[RouterProcess, _Mapping]] = ...) -> None: ...

class RouterProcess(_message.Message):
    __slots__ = ("worker", "workers", "window", "refused")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    worker: int
    workers: int
    window: _duration_pb2.Duration
    refused: int
    def __init__(self, worker: _Optional[int] = ..., workers: _Optional[int] = ..., window: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., refused: _Optional[int] = ...) -> None: ...

class Activity(_message.Message):
    __slots__ = ("routes_per_second", "reasons", "first_tokens", "first_token_p50", "first_token_p95")
    ROUTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_P50_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_P95_FIELD_NUMBER: _ClassVar[int]
    routes_per_second: float
    reasons: _containers.RepeatedCompositeFieldContainer[ReasonCount]
    first_tokens: int
    first_token_p50: _duration_pb2.Duration
    first_token_p95: _duration_pb2.Duration
    def __init__(self, routes_per_second: _Optional[float] = ..., reasons: _Optional[_Iterable[_Union[ReasonCount, _Mapping]]] = ..., first_tokens: _Optional[int] = ..., first_token_p50: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., first_token_p95: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ReasonCount(_message.Message):
    __slots__ = ("reason", "routes")
    REASON_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    reason: _generation_pb2.RouteReason
    routes: int
    def __init__(self, reason: _Optional[_Union[_generation_pb2.RouteReason, str]] = ..., routes: _Optional[int] = ...) -> None: ...

class Drift(_message.Message):
    __slots__ = ("verdict", "index", "prompts")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    verdict: str
    index: float
    prompts: float
    def __init__(self, verdict: _Optional[str] = ..., index: _Optional[float] = ..., prompts: _Optional[float] = ...) -> None: ...

class Expert(_message.Message):
    __slots__ = ("name", "available", "replicas", "activity")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    available: bool
    replicas: _containers.RepeatedCompositeFieldContainer[Replica]
    activity: Activity
    def __init__(self, name: _Optional[str] = ..., available: _Optional[bool] = ..., replicas: _Optional[_Iterable[_Union[Replica, _Mapping]]] = ..., activity: _Optional[_Union[Activity, _Mapping]] = ...) -> None: ...

class Replica(_message.Message):
    __slots__ = ("name", "endpoint", "serving", "description", "load", "outstanding", "expected_wait")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_WAIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    endpoint: str
    serving: bool
    description: _expert_pb2.DescribeResponse
    load: _expert_pb2.Load
    outstanding: int
    expected_wait: _duration_pb2.Duration
    def __init__(self, name: _Optional[str] = ..., endpoint: _Optional[str] = ..., serving: _Optional[bool] = ..., description: _Optional[_Union[_expert_pb2.DescribeResponse, _Mapping]] = ..., load: _Optional[_Union[_expert_pb2.Load, _Mapping]] = ..., outstanding: _Optional[int] = ..., expected_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Unreachable(_message.Message):
    __slots__ = ("endpoint", "reason")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    reason: str
    def __init__(self, endpoint: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
