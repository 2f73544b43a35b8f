"""What a router process remembers of the latest seconds."""

from expertmesh.v1.generation_pb2 import RouteReason
from mesh_wire.deadlines import seconds
from router_svc.activity import KEPT, WINDOW_S, Ledger

CONFIDENT, UNSURE = RouteReason.ROUTE_REASON_CONFIDENT, RouteReason.ROUTE_REASON_UNSURE


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def ledger() -> tuple[Ledger, Clock]:
    clock = Clock()
    return Ledger(clock), clock


def test_routes_are_counted_by_expert_and_reason() -> None:
    kept, clock = ledger()
    clock.now += WINDOW_S
    kept.routed("math", CONFIDENT)
    kept.routed("math", CONFIDENT, 3)
    kept.routed("math", UNSURE)
    kept.routed("coding", CONFIDENT)

    activity = kept.lately("math")
    assert [(each.reason, each.routes) for each in activity.reasons] == sorted([(CONFIDENT, 4), (UNSURE, 1)])
    assert activity.routes_per_second == 5 / WINDOW_S
    assert not kept.lately("law").reasons


def test_what_is_older_than_the_window_is_forgotten() -> None:
    kept, clock = ledger()
    kept.routed("math", CONFIDENT)
    kept.first_token("math", 0.5)
    clock.now += WINDOW_S - 1
    kept.routed("math", CONFIDENT)
    assert kept.lately("math").reasons[0].routes == 2
    clock.now += 1
    assert kept.lately("math").reasons[0].routes == 1
    assert kept.lately("math").first_tokens == 0


def test_a_young_process_looks_back_on_its_own_time_only() -> None:
    kept, clock = ledger()
    kept.routed("math", CONFIDENT, 10)
    assert kept.lately("math").routes_per_second == 10
    clock.now += 5
    assert kept.window_s == 5
    assert kept.lately("math").routes_per_second == 2


def test_quantiles_of_first_tokens_are_values_that_came() -> None:
    kept, _ = ledger()
    for took_ms in range(1, 101):
        kept.first_token("math", took_ms / 1000)
    activity = kept.lately("math")
    assert activity.first_tokens == 100
    assert (seconds(activity.first_token_p50), seconds(activity.first_token_p95)) == (0.05, 0.095)


def test_without_a_first_token_there_is_no_quantile() -> None:
    kept, _ = ledger()
    assert not kept.lately("math").HasField("first_token_p50")
    kept.first_token("math", 0.25)
    assert seconds(kept.lately("math").first_token_p95) == 0.25


def test_memory_is_bounded_whatever_the_load() -> None:
    kept, clock = ledger()
    for _ in range(3 * WINDOW_S):
        clock.now += 1
        for _ in range(100):
            kept.first_token("math", 0.1)
        kept.routed("math", CONFIDENT, 100)
    assert kept.lately("math").first_tokens == KEPT
    assert kept.lately("math").reasons[0].routes == 100 * WINDOW_S
