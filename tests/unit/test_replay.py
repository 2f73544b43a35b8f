"""A decision that was told can be made again from what was told."""

import json
from pathlib import Path

import pytest
import typer
from google.protobuf.json_format import MessageToDict, MessageToJson
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from expertmesh.v1.router_pb2 import RouteResponse
from mesh_wire.errors import MeshError
from router_svc.choosing.candidate import Candidate
from router_svc.choosing.decision import ANY, FULL, LOWER, Policy, Wish
from router_svc.choosing.explaining import chosen_of, explained
from router_svc.choosing.roster import Roster
from router_svc.choosing.rules import Rules
from router_svc.choosing.selection import select
from router_svc.classifying.classification import Scored
from router_svc.replay import again, command, read
from support.candidates import PLACES, any_fleet, names, replica, twin, waiting

POLICY = Policy(generalist="general", threshold=0.4, spill_ms_per_point=10, sibling_ms=100, stale_after_s=2)


def told(
    scores: dict[str, float], fleet: list[Candidate], policy: Policy = POLICY, wish: Wish | None = None
) -> RouteResponse:
    """Decide, and explain as `Route` does."""
    roster, wish = Roster(fleet), wish or Wish(chance=0.3)
    decision = select(scores, roster, policy, wish)
    scored = Scored(scores, "lexical", "lexical", "", "abc", 0.0)
    return explained(decision, chosen_of(decision, scored, Rules(1, policy), 1), scores, roster, policy, wish)


FLEET = [replica("a", "general"), replica("b", "math", load=waiting(9)), twin("c", "math", load=waiting(0.2))]

policies = st.builds(
    Policy,
    generalist=st.just("general"),
    threshold=st.floats(0, 1),
    spill_ms_per_point=st.none() | st.floats(0, 1000),
    quality_floor=st.floats(0, 1),
    sibling_ms=st.floats(0, 1000),
    affinity_ms=st.floats(0, 1000),
    stale_after_s=st.floats(0.1, 10),
)
wishes = st.builds(
    Wish,
    pinned=st.just("") | names,
    precision=st.sampled_from([ANY, FULL, LOWER]),
    conversation=st.none() | st.integers(0, 2**64 - 1),
    excluded=st.frozensets(st.sampled_from(PLACES), max_size=2),
    chance=st.none() | st.floats(0, 1, exclude_max=True),
    now=st.floats(0, 100),
)


@given(st.dictionaries(names, st.floats(0, 1), max_size=4), any_fleet, policies, wishes)
def test_every_decision_comes_out_the_same_again(
    scores: dict[str, float], fleet: list[Candidate], policy: Policy, wish: Wish
) -> None:
    try:
        response = told(scores, fleet, policy, wish)
    except MeshError:
        return

    [one] = read(MessageToJson(response))

    assert again(one) == one.outcome
    chosen, *others = response.options
    assert (chosen.expert, chosen.variant, chosen.verdict) == (response.route.expert, response.route.variant, "chosen")
    assert all(option.verdict for option in others)
    assert response.replicas[0].endpoint == response.endpoint


def test_the_alternatives_that_lost_are_told() -> None:
    response = told({"math": 0.7, "general": 0.3}, FLEET)

    assert [(option.expert, option.variant, option.verdict) for option in response.options] == [
        ("math", "int8", "chosen"),
        ("general", "", "would wait 25 ms; its lower score costs 400 ms"),
        ("math", "", "would wait 9000 ms"),
    ]


def run(*arguments: str, text: str = "") -> tuple[int, str]:
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, list(arguments), input=text)
    return result.exit_code, result.output


def test_what_the_command_printed_is_read_from_a_file_or_from_standard_input(tmp_path: Path) -> None:
    response = told({"math": 0.7, "general": 0.3}, FLEET)
    printed = json.dumps({"expert": "math", "response": MessageToDict(response, preserving_proto_field_name=True)})
    (tmp_path / "route.json").write_text(printed)

    assert run(str(tmp_path / "route.json")) == run("-", text=printed)
    code, output = run("-", text=printed + "\n" + MessageToJson(response))
    assert code == 0
    assert output.count("the same: math (int8) at c:1, sibling: it scored best with 0.70; int8 answers") == 2


def test_a_decision_that_comes_out_otherwise_is_told_and_fails() -> None:
    response = told({"math": 0.7, "general": 0.3}, FLEET)
    response.grounds.policy.sibling_ms = 60_000

    code, output = run("-", text=MessageToJson(response))

    assert code == 1
    assert output.startswith("another: general at a:1, spilled")
    assert "was told: math (int8) at c:1" in output


def test_grounds_by_which_nobody_can_answer_are_told_and_fail() -> None:
    response = told({"math": 0.7, "general": 0.3}, FLEET)
    del response.grounds.fleet[:]

    code, output = run("-", text=MessageToJson(response))

    assert (code, output.splitlines()[0]) == (1, "another: NO_EXPERT: no replica of general is up")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("{", "not JSON"),
        ("[]", "not an object"),
        ('{"river": 1}', "not a decision"),
        ("{}", "no grounds"),
        ('{"response": 7}', "not an object"),
    ],
)
def test_what_is_no_decision_is_refused(text: str, why: str) -> None:
    code, output = run("-", text=text)

    assert code == 2
    assert why in output
