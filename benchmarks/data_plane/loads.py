"""What is asked of every way: the loads, and how long each is held."""

import math
import re
from dataclasses import dataclass

PER_REPLICA = 256  # sequences of one engine, as vLLM's default; more streams are spread over more replicas
FAST_STREAMS = 32
IN_FLIGHT = 32  # one-token requests at once
DECIDING = 8  # decisions asked for at once


@dataclass(frozen=True)
class Load:
    name: str
    streams: int
    rate: float = 0.0  # tokens per second of a stream; 0: as fast as it goes
    endless: bool = False  # the streams outlive the window; else one-token answers, the next asked when one has ended
    engines: int = 0  # in front of so many, whatever else is asked for; 0: one for each `PER_REPLICA` streams

    @property
    def steady(self) -> bool:
        return self.rate > 0

    @property
    def interval_s(self) -> float:
        return 1 / self.rate if self.rate else 0.0

    @property
    def of_decisions(self) -> bool:
        return self.name == "decisions"

    @property
    def title(self) -> str:
        if self.steady:
            in_step = " in step" if self.engines else ""
            return f"{self.streams:,} stream{'s' * (self.streams > 1)} × {self.rate:g} tokens/s{in_step}"
        if self.of_decisions:
            return f"decisions alone, {self.streams} questions at once"
        if self.endless:
            return f"as fast as it goes, {self.streams} streams"
        return f"one-token answers, {self.streams} at once" if self.streams > 1 else "one-token answers, one at a time"

    def replicas(self, most: int) -> int:
        return self.engines or max(1, min(most, math.ceil(self.streams / PER_REPLICA)))

    def connections(self, most: int) -> int:
        return max(1, min(most, self.streams))


STEADY = ("1x20", "32x20", "256x20", "1000x20", "32x100")
IN_STEP = "1000x20@1"  # one engine steps all, where four step a quarter each in turn
NAMES = (*STEADY, IN_STEP, "fast", "requests", "requests-1", "decisions")


def parse(name: str) -> Load:
    """Return the load of that name: `STREAMSxRATE`, or `STREAMSxRATE@ENGINES`; `fast`, `requests`, `requests-1` or
    `decisions`.

    Raises:
        ValueError: there is none.
    """
    match name:
        case "fast":
            return Load(name, FAST_STREAMS, endless=True)
        case "requests":
            return Load(name, IN_FLIGHT)
        case "requests-1":
            return Load(name, 1)
        case "decisions":
            return Load(name, DECIDING)
    found = re.fullmatch(r"([1-9]\d*)x(\d+(?:\.\d+)?)(?:@([1-9]\d*))?", name)
    if found is None or not float(found[2]):
        raise ValueError(f"no load is called {name!r}: STREAMSxRATE[@ENGINES], fast, requests, requests-1 or decisions")
    return Load(name, int(found[1]), float(found[2]), endless=True, engines=int(found[3] or 0))


CROWD = 1000  # streams, from which a window has its whole length


@dataclass(frozen=True)
class Timing:
    """How often and for how long, in seconds. Windows are whole numbers of 50 ms steps."""

    rounds: int
    longest_s: float  # the window where rounds differ most: with a crowd, merging or not
    steady_s: float  # with fewer streams at a rate
    closed_s: float  # as fast as it goes: thousands of requests in each
    probe_s: float

    def window_s(self, load: Load) -> float:
        if not load.steady:
            return self.closed_s
        return self.longest_s if load.streams >= CROWD else self.steady_s

    def ramp_s(self, load: Load) -> float:
        return max(0.1, load.streams / 1500)

    def settle_s(self, load: Load) -> float:
        return 0.3 + load.streams / 2000

    def cell_s(self, load: Load) -> float:
        """Return about how long one way takes under one load."""
        overhead_s = 0.5
        ramp_s, probe_s = self.ramp_s(load) if load.endless else 0.0, self.probe_s if load.steady else 0.0
        return overhead_s + ramp_s + self.settle_s(load) + self.window_s(load) + probe_s


FULL = Timing(rounds=3, longest_s=2.4, steady_s=1.2, closed_s=1.0, probe_s=0.8)
QUICK = Timing(rounds=1, longest_s=1.2, steady_s=1.0, closed_s=0.8, probe_s=0.6)
