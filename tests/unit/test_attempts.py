"""What follows an attempt that failed."""

import grpc
import pytest

from mesh_wire.errors import (
    BadInput,
    Busy,
    DeadlinePassed,
    Foreign,
    Internal,
    MeshError,
    NotFound,
    Unavailable,
    error_of_stream,
)
from router_svc.attempts import MOVES, RetryBudget, Standing, Then, verdict

END, AGAIN, RESUME = Then.END, Then.AGAIN, Then.RESUME


def standing(**differs: object) -> Standing:
    """Return how things stand after a first attempt that brought nothing, unless it is said otherwise."""
    usual: dict[str, object] = {
        "tokens": 0,
        "begun": False,
        "attempts": 1,
        "moves": 0,
        "obstacle": "",
        "more": True,
        "left_s": None,
    }
    return Standing(**(usual | differs))  # type: ignore[arg-type]


def cut_off(**differs: object) -> Standing:
    """Return how things stand when an answer broke in its midst."""
    return standing(**({"tokens": 5, "begun": True} | differs))


def lost(reason: str = "EXPERT_LOST", **more: object) -> Unavailable:
    return Unavailable("gone", reason=reason, **more)  # type: ignore[arg-type]


def busy(retry_after_s: float | None = 0.5) -> Busy:
    return Busy("full", reason="EXPERT_BUSY", retry_after_s=retry_after_s)


LOST = [lost(reason) for reason in ("EXPERT_LOST", "EXPERT_STALLED", "ENGINE_DEAD", "DRAINING")]
OTHERS = [
    BadInput("no", reason="REQUEST_REFUSED"),
    NotFound("no", reason="EXPERT_UNKNOWN"),
    DeadlinePassed("late", reason="DEADLINE_PASSED"),
    Internal("bug", reason="INTERNAL"),
    Foreign("odd", status=grpc.StatusCode.ABORTED),
    lost("NO_EXPERT"),
    lost("RESUME_UNSUPPORTED"),
]


@pytest.mark.parametrize("error", LOST, ids=str)
def test_what_a_replica_lost_is_asked_for_elsewhere_free_of_charge(error: MeshError) -> None:
    before, midst = verdict(error, standing()), verdict(error, cut_off())

    assert (before.then, before.costs, before.pause_s) == (AGAIN, False, 0.0)
    assert (midst.then, midst.costs, midst.pause_s) == (RESUME, False, 0.0)


@pytest.mark.parametrize("error", OTHERS, ids=str)
@pytest.mark.parametrize("where", [standing(), cut_off()], ids=["before", "midst"])
def test_what_another_replica_would_answer_alike_ends_there(error: MeshError, where: Standing) -> None:
    assert verdict(error, where).then is END
    assert verdict(error, where).error is error


@pytest.mark.parametrize("error", [lost(), busy(), Foreign("down", status=grpc.StatusCode.UNAVAILABLE)], ids=str)
def test_there_is_one_second_try_before_the_first_token(error: MeshError) -> None:
    assert verdict(error, standing(attempts=1)).then is AGAIN
    assert verdict(error, standing(attempts=2)).then is END


def test_an_answer_moves_so_many_times() -> None:
    assert [verdict(lost(), cut_off(moves=moves)).then for moves in range(MOVES + 1)] == [RESUME] * MOVES + [END]


def test_text_without_tokens_cannot_go_on() -> None:
    assert verdict(lost(), standing(begun=True)).then is END


def test_what_cannot_be_resumed_ends_by_name() -> None:
    decided = verdict(lost(), cut_off(obstacle="sampling.presence_penalty"))

    assert decided.then is END
    assert (decided.error.reason, decided.error.field) == ("RESUME_UNSUPPORTED", "sampling.presence_penalty")
    assert verdict(lost(), standing(obstacle="sampling.presence_penalty")).then is AGAIN


def test_refusals_cost() -> None:
    assert verdict(busy(), standing()).costs
    assert verdict(lost("SOMETHING_ELSE"), standing()).costs
    assert verdict(Foreign("down", status=grpc.StatusCode.UNAVAILABLE), standing()).costs


def test_a_busy_replica_s_pause_holds_for_itself_alone() -> None:
    elsewhere, nobody_else = verdict(busy(), standing()), verdict(busy(), standing(more=False))
    waiting = verdict(busy(), standing(tokens=5, more=False))

    assert (elsewhere.then, elsewhere.pause_s, elsewhere.same_too) == (AGAIN, 0.0, False)
    assert nobody_else.then is END
    assert (waiting.then, waiting.pause_s, waiting.same_too) == (RESUME, 0.5, True)


def test_a_pause_that_a_server_names_is_kept_wherever_it_stands() -> None:
    behind = lost()
    behind.__cause__ = lost("OTHER", retry_after_s=0.7)

    assert verdict(lost("OTHER", retry_after_s=0.3), standing()).pause_s == 0.3
    assert verdict(behind, cut_off()).pause_s == 0.7


def test_a_pause_that_the_deadline_does_not_leave_is_the_end() -> None:
    error = lost("OTHER", retry_after_s=0.3)

    assert verdict(error, standing(left_s=0.2)).then is END
    assert verdict(error, standing(left_s=0.4)).then is AGAIN
    assert verdict(lost(), standing(left_s=-0.1)).then is END


def test_a_server_that_wants_no_second_try_gets_none() -> None:
    behind = lost()
    behind.__cause__ = lost("OTHER", pushback="never")

    assert verdict(lost("OTHER", pushback="never"), standing()).then is END
    assert verdict(behind, standing()).then is END
    assert verdict(behind, cut_off()).then is END


class Ended(grpc.RpcError, grpc.Call):
    """A call that has ended with a word on when to try again."""

    def __init__(self, pushback: str) -> None:
        self._trailers = (("grpc-retry-pushback-ms", pushback),)

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "not now"

    def trailing_metadata(self) -> object:
        return self._trailers

    def _unused(self, *args: object) -> None:
        raise NotImplementedError

    initial_metadata = is_active = time_remaining = cancel = add_callback = _unused


@pytest.mark.parametrize(
    ("pushback", "then", "pause_s"),
    [("250", AGAIN, 0.25), ("0", AGAIN, 0.0), ("-1", END, 0.0), ("soon", END, 0.0)],
)
def test_grpc_s_own_push_back_is_honoured(pushback: str, then: Then, pause_s: float) -> None:
    broken = lost()
    broken.__cause__ = error_of_stream(Ended(pushback))

    decided = verdict(broken, standing())

    assert (decided.then, decided.pause_s) == (then, pause_s)


def test_a_budget_allows_a_share_of_the_requests_and_what_it_had_saved() -> None:
    budget = RetryBudget(share=0.2, most=5, at_first=2)
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]

    granted = 0
    for _ in range(1000):
        budget.deposit()
        granted += budget.withdraw()
    assert granted == pytest.approx(200, abs=1)

    for _ in range(1000):
        budget.deposit()
    assert budget.left == 5
