"""What each caller may ask for."""

import pytest

from expertmesh.v1.generation_pb2 import (
    Chat,
    ChatMessage,
    GenerateRequest,
    Part,
    Priority,
    Role,
    Sampling,
    TokenIds,
    Usage,
)
from mesh_wire.admission_section import CallerLimits
from mesh_wire.errors import Busy
from router_svc.admitting.callers import KEPT, Account, Accounts
from router_svc.admitting.prices import UNMEASURED_TOKENS, Prices


def account(*, workers: int = 1, **limits: float | str) -> Account:
    return Accounts({"me": CallerLimits.model_validate(limits)}, CallerLimits(), workers).of("me", 0)


def refused(one: Account, tokens: float, now: float) -> Busy:
    with pytest.raises(Busy) as told:
        one.check(tokens, now)
    return told.value


def test_a_caller_without_limits_may_ask_for_anything() -> None:
    one = account()
    for _ in range(1000):
        one.check(1e9, 0)
        one.begin(1e9, 0)


def test_so_many_requests_a_second_and_a_burst() -> None:
    one = account(requests_per_s=2, burst_s=2)
    for _ in range(4):
        one.check(1, 0)
        one.begin(1, 0)

    error = refused(one, 1, 0)
    assert (error.reason, error.facts["limit"]) == ("CALLER_RATE", "requests_per_s")
    assert error.retry_after_s == pytest.approx(0.5)
    one.check(1, 0.5)


def test_tokens_are_guessed_at_first_and_charged_as_they_were_in_the_end() -> None:
    one = account(tokens_per_s=100, burst_s=10)
    one.check(900, 0)
    one.begin(900, 0)
    assert refused(one, 200, 0).retry_after_s == pytest.approx(1)
    one.end(900, 300, 0)
    one.check(700, 0)


def test_what_was_refused_later_costs_nothing() -> None:
    one = account(tokens_per_s=100, requests_per_s=1, burst_s=1)
    one.begin(100, 0)
    refused(one, 100, 0)
    one.end(100, None, 0)
    one.check(100, 0)


def test_so_many_at_once() -> None:
    one = account(max_in_flight=2)
    one.begin(1, 0)
    one.begin(1, 0)
    assert refused(one, 1, 0).reason == "CALLER_BUSY"
    one.end(1, 1, 0)
    one.check(1, 0)


def test_workers_share_what_a_caller_may_ask_for() -> None:
    one = account(workers=2, max_in_flight=3, requests_per_s=4, burst_s=1)
    assert one.most == 2
    one.begin(1, 0)
    one.begin(1, 0)
    one.most = None
    assert refused(one, 1, 0).retry_after_s == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("limits", "asked", "rank"),
    [
        ({}, Priority.PRIORITY_UNSPECIFIED, 1),
        ({}, Priority.PRIORITY_INTERACTIVE, 0),
        ({}, Priority.PRIORITY_BATCH, 2),
        ({}, 77, 2),  # of a later contract
        ({"priority": "batch"}, Priority.PRIORITY_UNSPECIFIED, 2),
        ({"best_priority": "standard"}, Priority.PRIORITY_INTERACTIVE, 1),
        ({"best_priority": "batch", "priority": "batch"}, Priority.PRIORITY_INTERACTIVE, 2),
    ],
)
def test_the_class_of_a_request_is_its_own_as_far_as_its_caller_may(
    limits: dict[str, str], asked: int, rank: int
) -> None:
    assert account(**limits).rank(asked) == rank


def test_callers_without_an_entry_have_the_others_limits_each_for_itself() -> None:
    accounts = Accounts({"known": CallerLimits()}, CallerLimits(requests_per_s=1, burst_s=1))
    for name in ("", "one", "two"):
        accounts.of(name, 0).begin(1, 0)
        refused(accounts.of(name, 0), 1, 0)
    accounts.of("known", 0).check(1, 0)


def test_callers_are_forgotten_but_not_those_with_something_under_way() -> None:
    accounts = Accounts({}, CallerLimits(max_in_flight=1))
    accounts.of("busy", 0).begin(1, 0)
    for number in range(KEPT + 100):
        accounts.of(f"caller {number}", 0)

    assert len(accounts._accounts) <= KEPT + 1
    refused(accounts.of("busy", 0), 1, 0)


def test_the_class_of_requests_that_name_none_is_one_that_they_may_have() -> None:
    with pytest.raises(ValueError, match="above"):
        CallerLimits(priority="interactive", best_priority="standard")


def test_a_guess_is_the_prompt_and_the_longest_answer_or_a_usual_one() -> None:
    prices = Prices()
    limited = Sampling(max_new_tokens=50)

    assert prices.guess(GenerateRequest(prompt="x" * 400, sampling=limited)) == pytest.approx(101 + 50)
    assert prices.guess(GenerateRequest(token_ids=TokenIds(ids=[7] * 30), sampling=limited)) == pytest.approx(31 + 50)
    assert prices.guess(GenerateRequest(prompt="x")) == pytest.approx(1 + UNMEASURED_TOKENS)
    chat = Chat(messages=[ChatMessage(role=Role.ROLE_USER, parts=[Part(text="x" * 400)])])
    assert 100 < prices.guess(GenerateRequest(chat=chat, sampling=limited)) - 50 < 110


def test_usual_answers_are_learnt() -> None:
    prices = Prices()
    for _ in range(200):
        assert prices.learn(Usage(prompt_tokens=5, completion_tokens=20)) == 25

    assert prices.guess(GenerateRequest(prompt="x")) == pytest.approx(21, abs=1)
