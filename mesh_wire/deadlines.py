"""Time left, as one number that every hop can shorten and none can lengthen."""

import time
from dataclasses import dataclass
from typing import Self

from google.protobuf.duration_pb2 import Duration

LONGEST_S = 315_576_000_000.0  # 10,000 years: what the wire's duration is defined for, either way


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on this machine's monotonic clock by which an answer must be complete; `at` is None for never."""

    at: float | None = None

    @classmethod
    def after(cls, seconds: float | None) -> Self:
        return cls(None if seconds is None else time.monotonic() + seconds)

    def left_s(self) -> float | None:
        """Seconds left, negative when it has passed; None without a deadline."""
        return None if self.at is None else self.at - time.monotonic()

    @property
    def passed(self) -> bool:
        return self.at is not None and time.monotonic() >= self.at


def duration(seconds: float) -> Duration:
    """Return `seconds` as the wire's duration, cut to what that can hold."""
    message = Duration()
    put_s(message, seconds)
    return message


def put_s(message: Duration, seconds: float) -> None:
    """Set the wire's duration in its place: cheaper than to make one and have it copied there."""
    ns = round(min(max(seconds, -LONGEST_S), LONGEST_S) * 1e9)
    if ns >= 0:
        message.seconds, message.nanos = divmod(ns, 1_000_000_000)
    else:  # both are negative then
        whole, nanos = divmod(-ns, 1_000_000_000)
        message.seconds, message.nanos = -whole, -nanos


def seconds(message: Duration) -> float:
    """Return the wire's duration in seconds. Out-of-range values are kept as they are, not refused."""
    return message.seconds + message.nanos * 1e-9
