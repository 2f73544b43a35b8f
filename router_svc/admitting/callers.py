"""What each caller of a router process has asked for lately, and whether it may ask for more."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from mesh_wire.admission_section import PRIORITIES, CallerLimits
from mesh_wire.errors import Busy
from router_svc.admitting.buckets import Bucket

KEPT = 10_000  # callers that are remembered
IN_FLIGHT_PAUSE_S = 0.5  # after which another try makes sense, where nobody knows when a request will end


@dataclass(eq=False, slots=True)
class Account:
    """One caller's."""

    name: str
    limits: CallerLimits
    most: int | None  # requests under way; None: any number
    requests: Bucket | None
    tokens: Bucket | None
    under_way: int = 0

    @property
    def unlimited(self) -> bool:
        """Whether it may ask for anything at any time."""
        return self.most is None and self.requests is None and self.tokens is None

    def rank(self, priority: int) -> int:
        """Return the class of a request, 0 being the highest.

        Args:
            priority: `Priority`, as the request names it; 0: it names none.
        """
        wanted = priority - 1 if priority else PRIORITIES.index(self.limits.priority)
        return min(max(wanted, PRIORITIES.index(self.limits.best_priority)), len(PRIORITIES) - 1)

    def check(self, tokens: float, now: float) -> None:
        """See whether it may ask for so many tokens now.

        Raises:
            Busy: CALLER_BUSY, too much is under way; CALLER_RATE, it asked for too much lately.
        """
        if self.most is not None and self.under_way >= self.most:
            raise _busy(f"this caller may have {self.most} requests under way", "CALLER_BUSY", IN_FLIGHT_PAUSE_S)
        for bucket, amount, limit in ((self.requests, 1.0, "requests_per_s"), (self.tokens, tokens, "tokens_per_s")):
            if bucket is not None and bucket.lacks_s(amount, now):
                pause_s = bucket.told_s(amount, now)
                raise _busy(f"this caller has used up its {limit}", "CALLER_RATE", pause_s, limit=limit)

    def begin(self, tokens: float, now: float) -> None:
        """Note that a request begins, which is thought to cost so many tokens."""
        self.under_way += 1
        if self.requests is not None:
            self.requests.take(1.0, now)
        if self.tokens is not None:
            self.tokens.take(tokens, now)

    def end(self, guessed: float, spent: float | None, now: float) -> None:
        """Note that a request is over, and what it has cost in truth; None: it was refused, and costs nothing."""
        self.under_way -= 1
        if self.tokens is not None:
            self.tokens.take((spent or 0.0) - guessed, now)
        if self.requests is not None and spent is None:
            self.requests.take(-1.0, now)


class Accounts:
    """All callers', by name; those that were not here for long are forgotten."""

    def __init__(self, callers: Mapping[str, CallerLimits], others: CallerLimits, workers: int = 1) -> None:
        """`workers` processes share what each caller may ask for."""
        self._limits = callers
        self._others = others
        self._workers = workers
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    def of(self, name: str, now: float) -> Account:
        """Return a caller's account; all without a name have one together."""
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = self._opened(name, now)
            if len(self._accounts) > KEPT:
                self._forget()
        else:
            self._accounts.move_to_end(name)
        return account

    def _opened(self, name: str, now: float) -> Account:
        limits = self._limits.get(name, self._others)

        def bucket(rate: float | None) -> Bucket | None:
            if rate is None:
                return None
            rate /= self._workers
            return Bucket(rate, max(1.0, rate * limits.burst_s), now)

        most = limits.max_in_flight
        return Account(
            name,
            limits,
            None if most is None else -(-most // self._workers),
            bucket(limits.requests_per_s),
            bucket(limits.tokens_per_s),
        )

    def _forget(self) -> None:
        """Forget whoever was not here for longest, among the first few, and has nothing under way."""
        for name in list(self._accounts)[:8]:
            if not self._accounts[name].under_way:
                del self._accounts[name]
                return


def _busy(message: str, reason: str, pause_s: float, **facts: str) -> Busy:
    return Busy(message, reason=reason, retry_after_s=pause_s, tokens_sent="0", **facts)
