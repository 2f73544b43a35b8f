"""Fair order between callers, and between classes."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_svc.admitting.class_queue import ClassQueue
from router_svc.admitting.fair_queue import CREDIT, FairQueue, Stand

callers = st.sampled_from("abcdef")


def stand(caller: str, cost: float = 10, weight: float = 1, *, first: bool = False) -> Stand:
    return Stand(caller, weight, cost, first)


def went(queue: FairQueue, many: int) -> list[str]:
    """Let so many go; return whose they were."""
    order = []
    for _ in range(many):
        head = next(iter(queue.heads()))
        queue.go(head)
        order.append(head.caller)
    return order


def test_one_callers_requests_go_in_the_order_in_which_they_came() -> None:
    queue, stands = FairQueue(), [stand("a") for _ in range(5)]
    for each in stands:
        queue.put(each)

    order = []
    while queue:
        order.append(next(iter(queue.heads())))
        queue.go(order[-1])

    assert order == stands


@given(st.dictionaries(callers, st.tuples(st.floats(0.5, 8), st.floats(1, 100)), min_size=2))
def test_whoever_has_a_line_gets_its_share_by_weight_whatever_requests_cost(
    lines: dict[str, tuple[float, float]],
) -> None:
    queue = FairQueue()
    spent = dict.fromkeys(lines, 0.0)
    for caller, (weight, cost) in lines.items():
        for _ in range(2):
            queue.put(stand(caller, cost, weight))
    for _ in range(600):
        head = next(iter(queue.heads()))
        queue.go(head)
        queue.put(stand(head.caller, head.cost, head.weight))
        spent[head.caller] += head.cost

    per_weight = {caller: spent[caller] / weight for caller, (weight, _) in lines.items()}
    step = {caller: cost / weight for caller, (weight, cost) in lines.items()}
    for one in lines:
        for other in lines:
            assert abs(per_weight[one] - per_weight[other]) <= (1 + CREDIT) * (step[one] + step[other]) + 1e-6


def test_a_greedy_caller_does_not_make_the_others_wait() -> None:
    queue = FairQueue()
    for _ in range(100):
        queue.put(stand("greedy"))
    went(queue, 20)
    for name in "abc":
        queue.put(stand(name))

    assert set(went(queue, 4)) >= set("abc")


def test_a_short_gap_does_not_cost_a_caller_its_share() -> None:
    """Its line is empty now and then, since its requests come by chance; it catches up."""
    queue, order = FairQueue(), Counter[str]()
    for turn in range(400):
        while queue.ahead(stand("greedy")) < 8:
            queue.put(stand("greedy"))
        if turn % 8 == 0:
            for _ in range(4):  # half of what goes, four at a time
                queue.put(stand("bursty"))
        order.update(went(queue, 1))

    assert order["bursty"] >= 196


def test_being_away_for_long_saves_no_more_than_a_little() -> None:
    queue = FairQueue()
    for _ in range(500):
        queue.put(stand("steady"))
    went(queue, 400)
    for _ in range(100):
        queue.put(stand("back"))

    assert Counter(went(queue, 40))["back"] <= 20 + CREDIT + 1


def test_what_is_to_go_first_goes_before_what_its_caller_has_and_not_before_others() -> None:
    queue, late = FairQueue(), stand("a", first=True)
    for name in "aab":
        queue.put(stand(name))
    queue.go(next(iter(queue.heads())))  # a
    queue.put(late)

    assert went(queue, 2) == ["b", "a"]
    assert len(queue) == 1
    assert next(iter(queue.heads())) is not late


arrivals = st.lists(st.tuples(callers, st.floats(1, 50), st.booleans()), max_size=40)


@given(arrivals, st.integers(0, 15), callers, st.floats(1, 50), st.booleans())
def test_no_more_go_before_one_that_joins_than_were_said_to_be_ahead(
    before: list[tuple[str, float, bool]], gone: int, caller: str, cost: float, first: bool
) -> None:
    queue = FairQueue()
    for name, price, is_first in before:
        queue.put(stand(name, price, first=is_first))
    went(queue, min(gone, len(queue)))
    mine = stand(caller, cost, first=first)

    told = queue.ahead(mine)
    queue.put(mine)

    order = []
    while mine not in order:
        order.append(next(iter(queue.heads())))
        queue.go(order[-1])
    assert len(order) - 1 <= told


def test_a_caller_that_is_alone_has_its_own_line_ahead() -> None:
    queue = FairQueue()
    for number in range(6):
        assert queue.ahead(stand("a")) == number
        queue.put(stand("a"))


def test_callers_that_were_here_lately_are_reckoned_with_by_half() -> None:
    queue = FairQueue()
    for _ in range(20):
        for name in "abcdefgh":
            queue.charge(stand(name))
    for _ in range(3):
        queue.put(stand("a"))

    assert 8 * 3 / 2 <= queue.ahead(stand("a")) <= 8 * 5 / 2


@given(arrivals, st.data())
def test_whoever_leaves_is_gone_and_the_rest_go(before: list[tuple[str, float, bool]], data: st.DataObject) -> None:
    queue, stands = FairQueue(), [stand(name, price, first=first) for name, price, first in before]
    for each in stands:
        queue.put(each)
    leaves = data.draw(st.sets(st.sampled_from(stands)) if stands else st.just(set()))
    for each in leaves:
        queue.remove(each)

    assert len(queue) == len(stands) - len(leaves)
    assert Counter(went(queue, len(queue))) == Counter(each.caller for each in stands if each not in leaves)


def test_a_request_that_cost_more_than_was_thought_is_paid_for() -> None:
    queue = FairQueue()
    for name in "aabb":
        queue.put(stand(name))
    dear = next(iter(queue.heads()))
    queue.go(dear)
    queue.settle(dear, 35)

    assert went(queue, 3) == ["b", "b", "a"]


def test_callers_that_are_gone_are_forgotten() -> None:
    queue = FairQueue()
    for number in range(10_000):
        queue.charge(stand(f"caller {number}"))

    assert len(queue._lines) < 200


def of_classes(queue: ClassQueue, many: int) -> list[int]:
    order = []
    for _ in range(many):
        one, rank = next(iter(queue.heads()))
        queue.go(one, rank)
        order.append(rank)
    return order


def test_the_higher_class_goes_first() -> None:
    queue = ClassQueue(3, share=0)
    for rank in (2, 1, 0, 2, 1, 0):
        queue.put(stand("a"), rank)

    assert of_classes(queue, 6) == [0, 0, 1, 1, 2, 2]


def test_a_lower_class_has_its_small_share_while_it_waits() -> None:
    queue = ClassQueue(3, share=0.1)
    for _ in range(20):
        queue.put(stand("a"), 1)
        queue.put(stand("a"), 2)
    order = []
    for _ in range(100):
        queue.put(stand("a"), 0)
        order += of_classes(queue, 1)

    counts = Counter(order)
    assert counts[1] == pytest.approx(10, abs=2)
    assert counts[2] == pytest.approx(10, abs=2)


def test_nothing_is_saved_up_for_a_class_that_does_not_wait() -> None:
    queue = ClassQueue(2, share=0.5)
    for _ in range(50):
        queue.put(stand("a"), 0)
    of_classes(queue, 40)
    for _ in range(10):
        queue.put(stand("a"), 1)

    assert of_classes(queue, 4).count(1) <= 2


@given(st.lists(st.tuples(callers, st.integers(0, 2)), max_size=30), st.integers(0, 2))
def test_no_more_go_before_one_that_joins_a_class_than_were_said(before: list[tuple[str, int]], rank: int) -> None:
    queue = ClassQueue(3, share=0)
    for caller, others_rank in before:
        queue.put(stand(caller), others_rank)
    mine = stand("z")

    told = queue.ahead(mine, rank)
    queue.put(mine, rank)
    gone = 0
    while (head := next(iter(queue.heads())))[0] is not mine:
        queue.go(*head)
        gone += 1

    assert gone <= told
