"""Failures that a caller can act on, and their form on the wire.

An error crosses the wire as a status code with a `google.rpc.ErrorInfo`, and arrives as the same class at the other
end. Reasons are listed, with their meaning, in `protos/expertmesh/v1/errors.proto`.
"""

from collections.abc import Iterable
from typing import ClassVar, Self

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from mesh_wire.deadlines import duration, seconds

DOMAIN = "expertmesh.v1"
DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"  # gRPC's own way to say when to try again, or, below zero, never
# A call's trailers have 8 KB, and a message travels in up to three forms there, escaped; what is longer is cut.
LONGEST_MESSAGE, LONGEST_FACT = 1000, 500  # bytes of UTF-8
_CODES = {code.value[0]: code for code in grpc.StatusCode if code is not grpc.StatusCode.OK}


class MeshError(Exception):
    """A failure with a reason. Subclasses are named for what the caller can do about it.

    Args:
        message: one line for people.
        reason: a name of `ErrorReason` without its prefix.
        field: path of the offending field in the request, such as `sampling.top_p`; empty if none.
        retry_after_s: seconds after which a retry makes sense; None if it does not.
        facts: further metadata of the `ErrorInfo`.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self, message: str, *, reason: str, field: str = "", retry_after_s: float | None = None, **facts: str
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.field = field
        self.retry_after_s = retry_after_s
        self.facts = facts

    def __reduce__(self) -> tuple[object, ...]:  # keyword-only arguments are lost by the default
        return (_rebuild, (type(self), self.message, self.reason, self.field, self.retry_after_s, self.facts))

    def __str__(self) -> str:
        where = f" ({self.field})" if self.field else ""
        return f"{self.reason}: {self.message}{where}"

    def alone(self) -> Self:
        """Return this error without its traceback and what led to it, once it is only to be told.

        The traceback has the frames of a request, and these have tasks and futures that have the error: all of them
        would stay until the garbage collector comes, which is seldom.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


class BadInput(MeshError):
    """The request is wrong; the same request will fail again."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(MeshError):
    """The request names something that does not exist."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(MeshError):
    """The request names something that is taken."""

    code = grpc.StatusCode.ALREADY_EXISTS


class Unsupported(MeshError):
    """The contract has a place for it and nothing serves it yet."""

    code = grpc.StatusCode.UNIMPLEMENTED


class Busy(MeshError):
    """Every place is taken. Worth retrying after a pause."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(MeshError):
    """Nobody can answer now; another replica or a later try may."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlinePassed(MeshError):
    """The time given for the answer ran out."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unauthenticated(MeshError):
    """The caller has not shown who it is, or that it may ask."""

    code = grpc.StatusCode.UNAUTHENTICATED


class Forbidden(MeshError):
    """The caller is known and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Internal(MeshError):
    """A fault of the server, which its log has under the request's id."""

    code = grpc.StatusCode.INTERNAL


class Foreign(MeshError):
    """A status that does not come from a mesh service, such as one of gRPC itself or of a proxy between."""

    def __init__(self, message: str, *, status: grpc.StatusCode, reason: str = "") -> None:
        super().__init__(message, reason=reason or status.name)
        self.code = status  # type: ignore[misc]  # the one class whose code is not its own

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_foreign, (self.message, self.code, self.reason))


_CLASSES: dict[grpc.StatusCode, type[MeshError]] = {
    kind.code: kind
    for kind in (
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
    )
}


def _rebuild(
    kind: type[MeshError],
    message: str,
    reason: str,
    field: str,
    retry_after_s: float | None,
    facts: dict[str, str],
) -> MeshError:
    error = kind(message, reason=reason, field=field, retry_after_s=retry_after_s)
    error.facts = facts  # not as keywords: another's may be called `reason`
    return error


def _rebuild_foreign(message: str, status: grpc.StatusCode, reason: str) -> MeshError:
    return Foreign(message, status=status, reason=reason)


def status_of(error: MeshError) -> status_pb2.Status:
    """Return the wire form of `error`."""
    message = _cut(error.message, LONGEST_MESSAGE)
    status = status_pb2.Status(code=error.code.value[0], message=message)
    if isinstance(error, Foreign):
        return status
    facts = {name: _cut(fact, LONGEST_FACT) for name, fact in error.facts.items()}
    if error.field:
        facts["field"] = error.field
    _pack(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=facts))
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=message, reason=error.reason
        )
        _pack(status, error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        _pack(status, error_details_pb2.RetryInfo(retry_delay=duration(error.retry_after_s)))
    return status


def error_of(status: status_pb2.Status) -> MeshError:
    """Return the error that `status` is the wire form of. Statuses that are not ours become `Foreign`."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    info, retry_after_s = _details(status)
    kind = _CLASSES.get(code)
    if info is None or kind is None:
        return Foreign(status.message, status=code, reason=info.reason if info else "")
    facts = dict(info.metadata)
    field = facts.pop("field", "")
    return _rebuild(kind, status.message, info.reason, field, retry_after_s, facts)


def error_of_call(error: grpc.RpcError) -> MeshError:
    """Return the error that a failed call stands for."""
    call: grpc.Call = error  # type: ignore[assignment]  # every RpcError raised by a call is one
    code, message, trailers = call.code(), call.details() or "", call.trailing_metadata() or ()
    told = _told_of_call(code, message, trailers)
    pushback = next((value for key, value in trailers if key == PUSHBACK_KEY), None)
    if pushback is not None:
        digits = pushback.decode(errors="replace") if isinstance(pushback, bytes) else pushback
        if digits.isdecimal():
            told.retry_after_s = int(digits) / 1000
        else:  # as gRPC has it: whatever is no number of milliseconds means that nothing is to be tried again
            told.facts["pushback"] = "never"
    return told


def _told_of_call(code: grpc.StatusCode, message: str, trailers: Iterable[tuple[str, str | bytes]]) -> MeshError:
    packed = next((value for key, value in trailers if key == DETAILS_KEY), None)
    if isinstance(packed, bytes):
        try:
            status = status_pb2.Status.FromString(packed)
        except DecodeError:  # somebody else's details
            status = status_pb2.Status()
        if status.code == code.value[0]:
            return error_of(status)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlinePassed(message or "the call's deadline passed", reason="DEADLINE_PASSED")
    return Foreign(message, status=code)


def error_of_stream(error: grpc.RpcError) -> MeshError:
    """As `error_of_call`, of a stream that its caller never cancels: two statuses say no more than that it broke.

    CANCELLED comes from a server that is gone, or a proxy. INTERNAL without a reason is what grpc.aio makes of a write
    that meets the stream's end, in place of the status with which it ended.
    """
    told = error_of_call(error)
    if isinstance(told, Foreign) and told.code in (grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL):
        return Foreign(told.message, status=grpc.StatusCode.UNAVAILABLE)
    return told


def _pack(status: status_pb2.Status, detail: error_details_pb2.ErrorInfo | object) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)  # type: ignore[arg-type]  # googleapis-common-protos ships no types
    status.details.append(packed)


def _details(status: status_pb2.Status) -> tuple[error_details_pb2.ErrorInfo | None, float | None]:
    found: error_details_pb2.ErrorInfo | None = None
    retry_after_s: float | None = None
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        try:
            if detail.Unpack(info) and info.domain == DOMAIN:
                found = info
            elif detail.Unpack(retry):
                retry_after_s = seconds(retry.retry_delay)
        except DecodeError:  # a detail that lies about its type
            continue
    return found, retry_after_s


def _cut(text: str, limit: int) -> str:
    """Return a text that the wire can carry: UTF-8, and not too long."""
    raw = text.encode(errors="replace")
    return raw.decode() if len(raw) <= limit else raw[: limit - 3].decode(errors="ignore") + "…"
