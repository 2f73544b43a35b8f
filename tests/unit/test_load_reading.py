"""What one answer adds to a load's account, and what the account says of itself."""

import csv
from io import StringIO
from typing import Any

import pytest

from expertmesh.v1.generation_pb2 import Finished, RouteChosen, RouteReason, Usage
from expertmesh_client.load import reading as module
from expertmesh_client.load.ceiling import Ceiling
from expertmesh_client.load.plan import Job, Rung
from expertmesh_client.load.reading import Reading, Window
from expertmesh_client.load.recorder import UNFINISHED, Recorder
from expertmesh_client.load.report import as_csv, remarks, table
from expertmesh_client.load.result import result_of

JOB = Job(target="x:1", experts=("math", "general"), generalist="general", goal_first_token_s=0.5)
CONFIDENT = RouteReason.ROUTE_REASON_CONFIDENT


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def answered(clock: Clock, recorder: Recorder, events: list[tuple[float, Any]], **about: Any) -> None:
    """Let one answer's events happen at their times: a number is a delta of so many tokens."""
    fields = {"intended": 100.0, "domain": "", "failure": ""} | about
    reading = Reading(JOB, recorder, Window(100, 110), fields["intended"], 200, fields["domain"])
    for at, event in events:
        clock.now = at
        match event:
            case int():
                reading.delta("x", range(event))
            case str():
                reading.route(RouteChosen(expert=event, replica=f"{event}-1", reason=CONFIDENT))
            case None:
                reading.finished(Finished(usage=Usage(prompt_tokens=5)))
    reading.end(fields["failure"], fields["failure"] and f"{fields['failure']}: sorry")


def test_times_count_from_the_intended_start(clock: Clock) -> None:
    recorder = Recorder()
    answered(clock, recorder, [(102, 1), (103, 1), (105, None)], intended=101)
    assert recorder.times["first_token"].percentile(0.5) == 1
    assert recorder.times["session"].percentile(0.5) == 4
    assert recorder.times["inter_token"].percentile(0.5) == 1


def test_a_delivery_of_several_tokens_shares_the_time_since_the_one_before(clock: Clock) -> None:
    recorder = Recorder()
    answered(clock, recorder, [(101, 1), (103, 4), (104, None)])
    assert recorder.times["inter_token"].count == 4
    assert recorder.times["inter_token"].mean_s == 0.5
    assert recorder.times["largest_gap"].most_s == 2
    assert recorder.times["per_token"].most_s == 0.5


def test_rates_are_of_what_arrives_within_the_window(clock: Clock) -> None:
    recorder = Recorder()
    answered(clock, recorder, [(99, 1), (100.5, 2), (101, None)], intended=98)  # began while warming up
    answered(clock, recorder, [(109, 1), (111, 5), (112, None)], intended=108)  # ends after it
    assert recorder.counts["window_tokens"] == 3
    assert recorder.counts["window_answers"] == 1
    assert recorder.counts["asked"] == recorder.counts["answered"] == 1
    assert recorder.times["session"].least_s == 4


def test_what_never_ended_counts_with_what_it_has_waited(clock: Clock) -> None:
    recorder = Recorder()
    answered(clock, recorder, [(139, "math")], failure=UNFINISHED)
    assert recorder.counts["unfinished"] == 1
    assert recorder.times["first_token"].most_s == 39
    assert recorder.times["session"].most_s == 39


def test_failures_count_by_reason_and_not_as_fast_answers(clock: Clock) -> None:
    recorder = Recorder()
    answered(clock, recorder, [(100.001, "math")], failure="EXPERT_BUSY")
    assert recorder.shares["failed"] == {"EXPERT_BUSY": 1}
    assert recorder.times["session"].count == 0
    assert recorder.counts["answered"] == 0


def test_a_route_is_right_where_the_labels_expert_answers_or_the_generalist_for_nobodys(clock: Clock) -> None:
    recorder = Recorder()
    for domain, expert in [("math", "math"), ("math", "general"), ("law", "general"), ("", "math")]:
        answered(clock, recorder, [(101, expert), (102, 1), (103, None)], domain=domain)
    result = result_of(Rung(users=1), recorder, JOB)
    assert (result["routed"]["labelled"], result["routed"]["accuracy"]) == (3, 2 / 3)
    assert result["routed"]["by_label"]["law"] == {"expected": "general", "answered_by": {"general": 1}}
    assert result["routed"]["experts"] == {"math": 2, "general": 2}


def test_goodput_counts_answers_that_kept_the_goals(clock: Clock) -> None:
    recorder = Recorder()
    answered(clock, recorder, [(100.4, 1), (103, None)])
    answered(clock, recorder, [(100.6, 1), (103, None)])
    recorder.window_s = 10.0
    result = result_of(Rung(users=1), recorder, JOB)
    assert (result["goodput_per_s"], result["good_share"]) == (0.1, 0.5)


def test_accounts_add_up_across_processes(clock: Clock) -> None:
    both, one, other = Recorder(), Recorder(), Recorder()
    for at, recorder in enumerate((one, other)):
        for into in (recorder, both):
            answered(clock, into, [(101 + at, "math"), (102 + at, 3), (103, None)], domain="math")
        answered(clock, recorder, [], failure="EXPERT_BUSY")
        answered(clock, both, [], failure="EXPERT_BUSY")
    merged = Recorder()
    for recorder in (one, other):
        merged.merge(Recorder.from_data(recorder.to_data()))
    assert merged.to_data() == both.to_data()


def test_a_generator_that_was_late_or_busy_is_flagged() -> None:
    fine, late, busy = Recorder(), Recorder(), Recorder()
    for recorder in (fine, late, busy):
        recorder.times["first_token"].record(0.05)
        recorder.times["lag"].record(0.001)
    late.times["loop_lag"].record(0.02)
    busy.loop_share = 0.97
    results = [result_of(Rung(users=1), recorder, JOB) for recorder in (fine, late, busy)]
    assert [result["generator"]["saturated"] for result in results] == [False, True, True]
    said = [line for line in remarks(results) if "do not trust this" in line]
    assert len(said) == 2
    assert "20.0 ms late" in said[0]
    assert "97%" in said[1]


def test_the_table_fits_a_terminal_at_seven_rungs_and_csv_has_a_line_for_each(clock: Clock) -> None:
    from expertmesh_client.cli.shapes import columns

    results = []
    for users in (1, 10, 50, 100, 200, 500, 1000):
        recorder = Recorder()
        answered(clock, recorder, [(101, "math"), (102, 3), (103, None)], domain="math")
        answered(clock, recorder, [], failure="EXPERT_BUSY")
        recorder.window_s = 10.0
        results.append(result_of(Rung(users=users), recorder, JOB, CEILING))
    lines = columns(table(results))
    assert lines[0].split() == ["users", "1", "10", "50", "100", "200", "500", "1000"]
    assert max(map(len, lines)) <= 80
    rows = list(csv.DictReader(StringIO(as_csv(results))))
    assert [row["users"] for row in rows] == ["1", "10", "50", "100", "200", "500", "1000"]
    assert rows[0]["routed.experts.math"] == "1"
    assert rows[0]["errors.EXPERT_BUSY.count"] == "1"


CEILING = Ceiling(
    requests_per_s=1000,
    tokens_per_s=10_000,
    us_per_request=40,
    us_per_token=4,
    lag_p99_s=0.001,
    loop_share=1,
    endpoint_share=0.5,
    limit="the generator",
)


def test_the_share_of_the_ceiling_adds_requests_and_tokens() -> None:
    assert CEILING.share_of(100, 100) == 0.1
    assert CEILING.share_of(100, 5100) == 0.6
