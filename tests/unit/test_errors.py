"""Errors and their form on the wire."""

import ast
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from expertmesh.v1.errors_pb2 import ErrorReason
from mesh_wire import errors
from mesh_wire.errors import (
    DETAILS_KEY,
    DOMAIN,
    AlreadyExists,
    BadInput,
    Busy,
    DeadlinePassed,
    Forbidden,
    Foreign,
    Internal,
    MeshError,
    NotFound,
    Unauthenticated,
    Unavailable,
    Unsupported,
    error_of,
    error_of_call,
    error_of_stream,
    status_of,
)

ROOT = Path(__file__).parents[2]
KINDS = [
    BadInput,
    NotFound,
    AlreadyExists,
    Unsupported,
    Busy,
    Unavailable,
    DeadlinePassed,
    Unauthenticated,
    Forbidden,
    Internal,
]
REASONS = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118  # no dict

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
facts = st.dictionaries(words.filter(lambda name: name != "field"), words, max_size=4)
statuses = st.builds(
    status_pb2.Status,
    code=st.integers(-(2**31), 2**31 - 1),
    message=words,
    details=st.lists(
        st.builds(
            any_pb2.Any,
            type_url=st.sampled_from(
                [f"type.googleapis.com/google.rpc.{name}" for name in ("ErrorInfo", "RetryInfo", "BadRequest")]
                + ["", "nonsense"]
            ),
            value=st.binary(max_size=40),
        ),
        max_size=3,
    ),
)


def told(error: MeshError) -> tuple[Any, ...]:
    return (type(error), error.code, error.message, error.reason, error.field, error.facts, error.retry_after_s)


@given(st.sampled_from(KINDS), words, words, words, st.none() | st.integers(0, 10**6), facts)
def test_an_error_arrives_as_what_it_was(
    kind: type[MeshError], message: str, reason: str, field: str, retry_ms: int | None, told_facts: dict[str, str]
) -> None:
    error = kind(message, reason=reason, field=field, retry_after_s=None if retry_ms is None else retry_ms / 1000)
    error.facts = told_facts

    arrived = error_of(status_pb2.Status.FromString(status_of(error).SerializeToString()))

    assert told(arrived)[:-1] == told(error)[:-1]
    assert arrived.retry_after_s == (None if retry_ms is None else pytest.approx(error.retry_after_s))


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_pickling(kind: type[MeshError]) -> None:
    error = kind("m", reason="r", field="f", retry_after_s=2, known="k")

    assert told(pickle.loads(pickle.dumps(error))) == told(error)  # noqa: S301  # just made


def test_a_foreign_error_survives_pickling() -> None:
    error = Foreign("m", status=grpc.StatusCode.DATA_LOSS, reason="r")

    assert told(pickle.loads(pickle.dumps(error))) == told(error)  # noqa: S301  # just made


@given(statuses)
def test_any_status_is_some_error_that_can_be_sent_on(status: status_pb2.Status) -> None:
    error = error_of(status)

    assert isinstance(error, MeshError)
    assert error.code is not grpc.StatusCode.OK
    again = error_of(status_of(error))
    assert (type(again), again.code, again.message) == (type(error), error.code, error.message)


def test_facts_may_have_any_name() -> None:
    info = error_details_pb2.ErrorInfo(reason="R", domain=DOMAIN, metadata={"reason": "x", "message": "y", "self": "z"})
    status = status_pb2.Status(code=3, message="m")
    status.details.add().Pack(info)

    error = error_of(status)

    assert (error.reason, error.message) == ("R", "m")
    assert error.facts == {"reason": "x", "message": "y", "self": "z"}
    assert told(pickle.loads(pickle.dumps(error))) == told(error)  # noqa: S301  # just made


def test_a_detail_of_another_domain_is_not_ours() -> None:
    status = status_pb2.Status(code=14, message="m")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="R", domain="elsewhere"))

    error = error_of(status)

    assert isinstance(error, Foreign)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")


def test_a_field_is_told_both_ways() -> None:
    status = status_of(BadInput("m", reason="R", field="sampling.top_p"))
    kinds = {detail.type_url.rpartition(".")[2] for detail in status.details}
    request = error_details_pb2.BadRequest()
    assert any(detail.Unpack(request) for detail in status.details)

    assert kinds == {"ErrorInfo", "BadRequest"}
    assert (request.field_violations[0].field, request.field_violations[0].reason) == ("sampling.top_p", "R")


@given(st.text(max_size=3000), st.text(max_size=3000))
def test_what_is_sent_fits_into_a_call_s_trailers(message: str, fact: str) -> None:
    """gRPC takes 8 KB of trailers; any text must fit, lone surrogates and all."""
    status = status_of(BadInput(message, reason="R", field="prompt", fact=fact))

    escaped = 3 * len(status.message.encode())
    assert escaped + status.ByteSize() * 4 / 3 < 8000


class Call(grpc.RpcError):
    """A call that failed."""

    def __init__(self, code: grpc.StatusCode, details: str | None = None, packed: object = None) -> None:
        self._told = code, details, ((DETAILS_KEY, packed),) if packed is not None else None

    def code(self) -> grpc.StatusCode:
        return self._told[0]

    def details(self) -> str | None:
        return self._told[1]

    def trailing_metadata(self) -> Any:
        return self._told[2]


def test_a_call_s_error_is_that_of_its_details() -> None:
    error = Busy("m", reason="EXPERT_BUSY", retry_after_s=2)
    call = Call(grpc.StatusCode.RESOURCE_EXHAUSTED, "other words", status_of(error).SerializeToString())

    assert told(error_of_call(call)) == told(error)


@pytest.mark.parametrize(
    "packed", [None, b"\xff\xff", b"", "text", status_of(BadInput("m", reason="R")).SerializeToString()]
)
def test_a_call_without_fitting_details_is_foreign(packed: object) -> None:
    error = error_of_call(Call(grpc.StatusCode.UNAVAILABLE, "no route", packed))

    assert isinstance(error, Foreign)
    assert (error.code, error.message, error.reason) == (grpc.StatusCode.UNAVAILABLE, "no route", "UNAVAILABLE")


def test_a_stream_that_broke_is_unavailable_whatever_grpc_makes_of_it() -> None:
    for code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE):
        assert error_of_stream(Call(code, "Internal error from Core", None)).code is grpc.StatusCode.UNAVAILABLE
    ours = Internal("a fault", reason="INTERNAL", request_id="x")
    packed = status_of(ours).SerializeToString()
    assert told(error_of_stream(Call(grpc.StatusCode.INTERNAL, "a fault", packed))) == told(ours)


def test_grpc_s_own_deadline_is_ours() -> None:
    assert isinstance(error_of_call(Call(grpc.StatusCode.DEADLINE_EXCEEDED)), DeadlinePassed)


@given(st.sampled_from([code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]), st.binary(max_size=60))
def test_any_failed_call_is_some_error(code: grpc.StatusCode, packed: bytes) -> None:
    assert error_of_call(Call(code, None, packed)).code is code


# The reasons


@cache
def raised() -> dict[str, set[type[MeshError]]]:
    """Return each reason that the source gives, with the classes that give it."""
    found: dict[str, set[type[MeshError]]] = {}
    kinds = {kind.__name__: kind for kind in KINDS}
    for package in ("mesh_wire", "router_svc", "expert_svc"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                for keyword in node.keywords:
                    if keyword.arg == "reason" and isinstance(keyword.value, ast.Constant) and keyword.value.value:
                        kind = kinds.get(getattr(node.func, "id", ""))
                        found.setdefault(str(keyword.value.value), set()).update({kind} if kind else set())
    return found


def test_every_reason_given_is_in_the_contract() -> None:
    assert set(raised()) - REASONS == set()


def test_every_reason_of_the_contract_is_given() -> None:
    """Some are chosen first and raised by a variable, so a reason counts wherever it stands by itself."""
    source = [path for package in ("mesh_wire", "router_svc", "expert_svc") for path in (ROOT / package).rglob("*.py")]
    named = {
        node.value
        for path in source
        if path.name != "metrics.py"  # which lists reasons that others give
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert REASONS - named == set()


def test_reasons_have_the_code_that_the_contract_says() -> None:
    wrong = []
    text = (ROOT / "protos/expertmesh/v1/errors.proto").read_text()
    code = ""
    for line in (line.strip() for line in text.splitlines()):
        if line.startswith("// ") and ":" in line and line[3:].partition(":")[0].isupper():
            code = line[3:].partition(":")[0]
        elif line.startswith("ERROR_REASON_"):
            reason = line.split()[0].removeprefix("ERROR_REASON_")
            wrong += [reason for kind in raised().get(reason, ()) if kind.code.name != code]
    assert wrong == []


def test_every_class_has_its_own_code() -> None:
    assert len({kind.code for kind in KINDS}) == len(KINDS)
    assert set(errors._CLASSES.values()) == set(KINDS)
