"""What is broken, when and for how long: a pure function of the seed, so that a run can be had again.

Faults overlap, but never so that nobody is left: of the replicas of an expert, and of the routers, one at least is left
alone at any moment. What takes a node out keeps it out for a while after its end, in which it starts again or is found
again.
"""

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

QUIET_S = 3.0  # before the first fault
CALM_S = 10.0  # after the last one; everything is whole then
RECOVERY_S = 8.0  # after a fault that took a node out
MEAN_PAUSE_S = 2.0  # between the beginnings of two faults
MESH = "mesh"  # the node of faults that are nobody's own


@dataclass(frozen=True, slots=True)
class Kind:
    """A way of breaking something.

    Attributes:
        lasts_s: the shortest and the longest time; zeros: it is over at once.
        out: whether whom it happens to may answer nobody meanwhile.
        whom: what can be hit: "router", "expert", or MESH.
    """

    lasts_s: tuple[float, float]
    out: bool
    whom: tuple[str, ...] = ("router", "expert")


KINDS: Mapping[str, Kind] = {
    "kill": Kind((0, 0), out=True),  # SIGKILL
    "term": Kind((0, 0), out=True),  # SIGTERM: it drains
    "stop": Kind((1, 8), out=True),  # SIGSTOP, then SIGCONT
    "swallow": Kind((3, 10), out=True),  # every packet is dropped, without a reset
    "one-way-in": Kind((2, 8), out=True),  # what comes is dropped
    "one-way-out": Kind((2, 8), out=True),  # what goes is dropped
    "lose": Kind((3, 12), out=False),  # some packets are dropped, either way
    "lag": Kind((3, 12), out=False),  # packets are late
    "reorder": Kind((3, 12), out=False),  # packets overtake each other
    "dns-fewer": Kind((6, 14), out=True, whom=("expert",)),  # its address is missing behind its name
    "dns-gone": Kind((6, 14), out=False, whom=(MESH,)),  # no name leads anywhere
    "dns-stranger": Kind((6, 14), out=False, whom=(MESH,)),  # a name leads to an address where nobody is, too
    "disk-full": Kind((4, 12), out=False, whom=(MESH,)),  # under the trace store
}
STARTS_ANEW = ("kill", "term")


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One fault; seconds since the beginning of the run."""

    at_s: float
    kind: str
    node: str
    lasts_s: float
    amount: float = 0.0  # of packets lost or reordered, a share; of lag, seconds

    @property
    def over_s(self) -> float:
        """When it ends, its recovery included."""
        return self.at_s + self.lasts_s + (RECOVERY_S if KINDS[self.kind].out else 0.0)

    def overlaps(self, other: "Fault") -> bool:
        return self.at_s < other.over_s and other.at_s < self.over_s

    @property
    def words(self) -> str:
        lasts = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        amount = f" ({self.amount:.2f})" if self.amount else ""
        return f"{self.kind} {self.node}{amount}{lasts}"


def plan(seed: int, seconds: float, groups: Mapping[str, Sequence[str]], kinds: Collection[str]) -> list[Fault]:
    """Return the faults of a run, in the order of their beginnings.

    Args:
        groups: those of whom one must be left, by what they do: "router", and a name per expert.
        kinds: which of KINDS there are.
    """
    draw, faults, at_s = random.Random(seed), list[Fault](), QUIET_S
    lasting: list[Fault] = []
    names = [name for name in KINDS if name in set(kinds)]  # in an order that does not depend on the caller's
    while names:
        at_s += draw.expovariate(1 / MEAN_PAUSE_S)
        kind = draw.choice(names)
        shortest, longest = KINDS[kind].lasts_s
        lasts_s = draw.uniform(shortest, longest)
        node = draw.choice(_nodes(kind, groups))
        fault = Fault(round(at_s, 3), kind, node, round(lasts_s, 3), _amount(kind, draw))
        if at_s > seconds - CALM_S:
            break
        lasting = [other for other in lasting if other.over_s > fault.at_s]
        if fault.at_s + fault.lasts_s <= seconds - CALM_S and bearable(fault, lasting, groups):
            faults.append(fault)
            lasting.append(fault)
    return sorted(faults)


def bearable(fault: Fault, others: Iterable[Fault], groups: Mapping[str, Sequence[str]]) -> bool:
    """Whether a fault leaves one of every group, and hits nobody who has not got over the last one."""
    beside = [other for other in others if other.overlaps(fault)]
    if any((other.node == fault.node != MESH) or other.kind == fault.kind == "disk-full" for other in beside):
        return False
    if any(_names_meet(fault, other, groups) for other in beside):
        return False
    if not KINDS[fault.kind].out:
        return True
    return all(
        len({other.node for other in beside if KINDS[other.kind].out and other.node in members}) < len(members) - 1
        for members in groups.values()
        if fault.node in members
    )


def _names_meet(fault: Fault, other: Fault, groups: Mapping[str, Sequence[str]]) -> bool:
    """Whether a router would start, and find nobody, while names lead nowhere; or two faults would write names."""
    if fault.kind.startswith("dns") and other.kind.startswith("dns"):
        return True
    both = (fault, other), (other, fault)
    return any(one.kind == "dns-gone" and two.kind in STARTS_ANEW and two.node in groups["router"] for one, two in both)


def _nodes(kind: str, groups: Mapping[str, Sequence[str]]) -> list[str]:
    whom = KINDS[kind].whom
    if whom == (MESH,):
        return [MESH]
    return [node for name, members in groups.items() for node in members if name != "router" or "router" in whom]


def _amount(kind: str, draw: random.Random) -> float:
    ranges = {"lose": (0.01, 0.15), "lag": (0.02, 0.3), "reorder": (0.05, 0.5)}
    if kind not in ranges:
        return 0.0
    low, high = ranges[kind]
    return round(draw.uniform(low, high), 3)
