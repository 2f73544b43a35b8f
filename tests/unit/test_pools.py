"""When a replica has room, and how soon places come free."""

import pytest

from expertmesh.v1.expert_pb2 import Load
from mesh_wire.admission_section import AdmissionSection
from mesh_wire.deadlines import duration
from router_svc.admitting.fair_queue import Stand
from router_svc.admitting.pools import SHORTEST_WAIT_S, Pools, every_s, has_room
from router_svc.choosing.roster import Roster
from support.candidates import replica, twin

PLACE = duration(2)


def busy(held: int, **more: object) -> Load:
    return Load(running=held, place_time=PLACE, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("held", "room"), [(0, True), (31, True), (33, True), (34, False), (60, False)])
def test_an_engine_has_a_few_ahead_of_its_places(held: int, room: bool) -> None:
    assert has_room(replica("a", "x", max_running=32, load=busy(held))) is room


def test_what_this_router_has_sent_since_the_report_counts() -> None:
    assert not has_room(replica("a", "x", max_running=4, load=busy(3), untold=2, outstanding=5))


def test_an_engine_that_reads_for_long_is_given_nothing_more_to_read() -> None:
    reading = busy(1, queued_prompt_tokens=5000, prompt_token_time=duration(0.001))
    assert not has_room(replica("a", "x", max_running=32, load=reading))


def test_a_full_cache_leaves_no_more_room_than_runs() -> None:
    load = Load(running=5, waiting=1, kv_cache_use=0.95, place_time=PLACE)
    assert not has_room(replica("a", "x", max_running=32, load=load))


def test_an_engine_that_does_not_tell_its_places_is_given_everything() -> None:
    assert has_room(replica("a", "x", max_running=0, load=busy(1000)))


def test_places_of_all_replicas_come_free_together() -> None:
    assert every_s([replica("a", max_running=4, load=busy(4))]) == pytest.approx(0.5)
    assert every_s([replica(n, max_running=4, load=busy(4)) for n in "ab"]) == pytest.approx(0.25)
    assert every_s([replica("a", max_running=4, load=Load(place_time=duration(0)))]) == 0
    assert every_s([]) == 0


def pools(section: AdmissionSection | None = None) -> Pools:
    roster = Roster(
        [
            replica("a", "x", "y", max_running=4, load=busy(4)),
            replica("b", "z", max_running=4, load=busy(4)),
            twin("c", "z", max_running=4, load=busy(4)),
        ]
    )
    return Pools(lambda: roster, section or AdmissionSection())


def test_experts_that_share_their_replicas_share_a_queue() -> None:
    some = pools()

    assert some.of("x", 0) is some.of("y", 0)
    assert some.of("x", 0) is not some.of("z", 0)
    assert some.of("z", 0).every_s == pytest.approx(0.25)  # its twin helps


def test_the_longest_wait_is_so_many_places_or_a_short_time_or_what_the_settings_say() -> None:
    assert pools(AdmissionSection(queue=8)).of("x", 0).longest_s == pytest.approx(4)
    assert pools(AdmissionSection(queue=1)).of("z", 0).longest_s == SHORTEST_WAIT_S
    assert pools(AdmissionSection(queue=8, max_wait_s=1.5)).of("x", 0).longest_s == 1.5


def test_a_request_is_refused_early_only_where_every_expert_has_a_queue() -> None:
    some = pools()
    some.of("x", 0).queue.put(Stand("me", 1, 1), 1)
    assert some.of_all(0) is None
    some.of("z", 0).queue.put(Stand("me", 1, 1), 1)

    found = some.of_all(0)

    assert found is not None
    assert {id(pool) for pool in found} == {id(some.of("x", 0)), id(some.of("z", 0))}
    assert some.waiting == [some.of("x", 0), some.of("z", 0)]


def test_the_expected_wait_counts_those_ahead() -> None:
    pool = pools().of("x", 0)
    for _ in range(3):
        pool.queue.put(Stand("me", 1, 1), 1)

    assert pool.wait_s(Stand("me", 1, 1), 1) == pytest.approx(4 * 0.5)
