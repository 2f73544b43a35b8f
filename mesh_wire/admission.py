"""Who is let in: a bound on the requests that a service holds at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from mesh_wire.errors import Busy


class Admission:
    """Places for requests, running and waiting. A full house refuses at once; nothing queues without bound."""

    def __init__(self, places: int, *, reason: str, retry_after_s: float = 0.5) -> None:
        self._places = places
        self._reason = reason
        self._retry_after_s = retry_after_s
        self._taken = 0
        self.refused = 0  # requests, in all

    @property
    def taken(self) -> int:
        return self._taken

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for as long as the block runs; as `take`."""
        self.take()
        try:
            yield
        finally:
            self.release()

    def take(self) -> None:
        """Take a place, until `release`.

        Raises:
            Busy: every place is taken.
        """
        if self._taken >= self._places:
            self.refused += 1
            raise Busy(
                f"all {self._places} places are taken",
                reason=self._reason,
                retry_after_s=self._retry_after_s,
                tokens_sent="0",
            )
        self._taken += 1

    def release(self) -> None:
        """Give a place back."""
        self._taken -= 1
