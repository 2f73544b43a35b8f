"""How a load shows itself while it runs."""

import re
from io import StringIO

import pytest

from expertmesh_client.load import crew
from expertmesh_client.load.crew import Progress
from expertmesh_client.load.plan import Rung
from expertmesh_client.load.show import show_on

RUNG = Rung(users=7, warm_s=2, last_s=30)


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(crew, "time", made)
    return made


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def progress() -> Progress:
    made = Progress(RUNG, began=100.0, under_way=7, done=40, failed=2)
    made.first_token.record(0.025)
    return made


def test_without_a_terminal_there_is_a_line_now_and_then(clock: Clock) -> None:
    stream = StringIO()
    with show_on(stream) as show:
        show.begin(RUNG, "1 of 3")
        for second in range(32):
            clock.now = 100.0 + second
            show.progress(progress())

    lines = stream.getvalue().splitlines()
    assert lines[0] == "1 of 3: 7 users, 2 s to warm up and 30 s"
    assert [line.split(":")[1] for line in lines[1:]] == [" 10 s", " 20 s", " 30 s"]
    assert lines[1].endswith("under way 7, answered 40, failed 2, first token p50 25 ms, p99 25 ms")


def test_on_a_terminal_the_state_is_kept_up_to_date(clock: Clock) -> None:
    stream = Terminal()
    with show_on(stream) as show:
        show.begin(RUNG, "1 of 3")
        for second in (1, 10, 40):
            clock.now = 100.0 + second
            show.progress(progress())

    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "1 of 3: 7 users" in shown
    assert [state for state in ("warms up", "measures", "answers under way") if state not in shown] == []
    assert "first token p50 25 ms" in shown
