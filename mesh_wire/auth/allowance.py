"""How much each caller has under way, and whether it may have more."""

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from mesh_wire.auth.callers import Caller
from mesh_wire.errors import Busy

RETRY_AFTER_S = 1.0
_ANY_NUMBER = nullcontext()


class Allowances:
    """Counts the requests of each caller of one process. Whatever else a caller is allowed at a time belongs here."""

    def __init__(self) -> None:
        self._under_way: Counter[str] = Counter()  # by caller; those with none are not kept

    def place(self, caller: Caller | None) -> AbstractContextManager[None]:
        """Count a request for as long as the block runs.

        Raises:
            Busy: CALLER_BUSY; the caller has as many under way as it may.
        """
        if caller is None or (most := caller.limits.max_in_flight) is None:
            return _ANY_NUMBER
        return self._counted(caller.name, most)

    @contextmanager
    def _counted(self, name: str, most: int) -> Iterator[None]:
        if self._under_way[name] >= most:
            raise Busy(
                f"this caller may have {most} requests under way here",
                reason="CALLER_BUSY",
                retry_after_s=RETRY_AFTER_S,
                tokens_sent="0",
            )
        self._under_way[name] += 1
        try:
            yield
        finally:
            self._under_way[name] -= 1
            if not self._under_way[name]:
                del self._under_way[name]
