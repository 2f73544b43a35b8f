"""The fleet, kept in order a replica at a time."""

from hypothesis import given
from hypothesis import strategies as st

from router_svc.choosing.candidate import Candidate, expected_wait_s
from router_svc.choosing.roster import Roster, Shelf
from support.candidates import PLACES, any_candidate, replica, twin


def as_data(roster: Roster) -> object:
    def shelves(which: dict[str, Shelf]) -> object:
        return {name: shelf.rising for name, shelf in which.items()}

    return shelves(roster.full), shelves(roster.lower), dict(roster.served), dict(roster.twins)


changes = st.lists(any_candidate() | st.sampled_from(PLACES), max_size=30)


@given(changes)
def test_a_roster_that_was_changed_is_as_one_that_is_new(changes: list[Candidate | str]) -> None:
    changed, fleet = Roster(), dict[str, Candidate]()
    for change in changes:
        if isinstance(change, Candidate):
            changed.put(change)
            fleet[change.endpoint] = change
        else:
            changed.drop(change)
            fleet.pop(change, None)

    assert as_data(changed) == as_data(Roster(fleet.values()))
    for shelf in (*changed.full.values(), *changed.lower.values()):
        waits = [wait_s for wait_s, _, _, _ in shelf.rising]
        assert waits == sorted(waits)
        assert waits[0] == shelf.least_s == expected_wait_s(shelf.rising[0][3])


def test_an_expert_and_its_twin_stand_apart() -> None:
    roster = Roster([replica("a", "math"), twin("b", "math"), replica("c", "math", serving=False)])

    assert [entry[2] for entry in roster.full["math"].rising] == ["a:1"]
    assert [entry[2] for entry in roster.lower["math"].rising] == ["b:1"]
    assert (dict(roster.served), dict(roster.twins)) == ({"math": 3}, {"math": 1})


def test_a_replica_may_start_to_serve_something_else() -> None:
    roster = Roster([replica("a", "math")])

    roster.put(replica("a", "law"))

    assert (list(roster.full), dict(roster.served)) == (["law"], {"law": 1})
