"""What a ticket costs: to sign in the router, to check in the expert; no network.

    python -m benchmarks.ticket_cost [--tickets 20000] [--json]

Prints microseconds of CPU per ticket, the median of 5 rounds: signing, checking, and checking what is refused.
"""

import argparse
import json
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from statistics import median

from expertmesh.v1.generation_pb2 import GenerateRequest
from mesh_wire.deadlines import Deadline
from mesh_wire.errors import MeshError
from mesh_wire.ticket_keys import Keys
from mesh_wire.tickets import TicketGate, TicketOffice

ROUNDS = 5


def cost_us(work: Callable[[str], object], items: Iterable[str]) -> float:
    """Return the CPU of one item, in microseconds."""
    items = list(items)
    began = time.process_time()
    for item in items:
        with suppress(MeshError):
            work(item)
    return (time.process_time() - began) / len(items) * 1e6


def one_round(tickets: int) -> dict[str, float]:
    keys = Keys({"k1": secrets.token_bytes(32)})
    office = TicketOffice(keys, lifetime_s=30)
    forger = TicketOffice(Keys({"k1": secrets.token_bytes(32)}), lifetime_s=30)
    late = TicketOffice(keys, lifetime_s=-60)
    gate = TicketGate(keys, "a", {"math": "adapter"})
    request, deadline = GenerateRequest(expert="math"), Deadline.after(60)

    def sign(by: TicketOffice) -> str:
        return by.for_request("a", "math", "adapter", deadline)

    def check(ticket: str) -> Deadline:
        return gate.request(ticket, request, deadline)

    good = [sign(office) for _ in range(tickets)]
    return {
        "sign": cost_us(lambda _: sign(office), good),
        "check": cost_us(check, good),
        "refuse a replayed one": cost_us(check, good),
        "refuse a forged one": cost_us(check, [sign(forger) for _ in range(tickets)]),
        "refuse an expired one": cost_us(check, [sign(late) for _ in range(tickets)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tickets", type=int, default=20_000, help="tickets in each round")
    parser.add_argument("--json", action="store_true", help="print one object")
    given = parser.parse_args()
    rounds = [one_round(given.tickets) for _ in range(ROUNDS)]
    costs = {what: round(median(one[what] for one in rounds), 1) for what in rounds[0]}
    if given.json:
        print(json.dumps(costs))
    else:
        for what, us in costs.items():
            print(f"{what:24}{us:7.1f} µs")


if __name__ == "__main__":
    main()
