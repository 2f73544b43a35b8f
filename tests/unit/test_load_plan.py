"""What a load asks, and when: reproducible, the same whoever shares it, and refused where it makes no sense."""

import json
import random
import statistics
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertmesh_client.load.arrivals import poisson, recorded
from expertmesh_client.load.lengths import Distribution
from expertmesh_client.load.limits import check_descriptors
from expertmesh_client.load.plan import PER_USER, Asks, Job, Rung, open_loop, user_begins_s, user_chance, users_of
from expertmesh_client.load.problems import BadLoad
from expertmesh_client.load.prompts import Choice, Prompt, built_in, read_prompts, read_skew


def job(**fields: object) -> Job:
    return Job.model_validate({"target": "nowhere:1", **fields})


def test_the_built_in_prompts_have_domains() -> None:
    prompts = built_in()
    assert len(prompts) == len({prompt.text for prompt in prompts}) == 48
    assert set(Counter(prompt.domain for prompt in prompts).values()) == {8}


@given(st.floats(1, 200), st.integers(0, 100))
def test_poisson_arrivals_come_in_order_and_in_time(rate: float, seed: int) -> None:
    moments = list(poisson(rate, 2.0, random.Random(seed)))
    assert moments == sorted(moments)
    assert all(0 <= moment < 2.0 for moment in moments)


def test_poisson_arrivals_have_their_rate_and_as_much_spread() -> None:
    counts = [len(list(poisson(20, 1.0, random.Random(seed)))) for seed in range(400)]
    assert statistics.mean(counts) == pytest.approx(20, rel=0.05)
    assert statistics.variance(counts) == pytest.approx(20, rel=0.25)


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_processes_share_an_open_loop_without_changing_it(processes: int) -> None:
    rung = Rung(rate=100, warm_s=0, last_s=2)
    alone = list(open_loop(job(), rung, Asks(job()), 0))
    shared = job(processes=processes)
    parts = [list(open_loop(shared, rung, Asks(shared), worker)) for worker in range(processes)]
    assert sorted((each for part in parts for each in part), key=lambda each: each[0]) == alone
    assert len(alone) > 100


@given(st.integers(1, 50), st.integers(1, 8))
def test_processes_share_users_without_losing_one(users: int, processes: int) -> None:
    shared, rung = job(processes=processes), Rung(users=users)
    assert sorted(user for worker in range(processes) for user in users_of(shared, rung, worker)) == list(range(users))
    assert all(0 <= user_begins_s(rung, user) < rung.warm_s for user in range(users))


def test_a_user_asks_the_same_whoever_plays_it() -> None:
    rung = Rung(users=4)
    asks = Asks(job(output_tokens="8..90", prompt_words="5..50"))
    one, other = user_chance(job(), rung, 2), user_chance(job(processes=3), rung, 2)
    assert [asks.draw(one) for _ in range(20)] == [asks.draw(other) for _ in range(20)]
    assert asks.draw(user_chance(job(), rung, 0)) != asks.draw(user_chance(job(seed=1), rung, 0))


def test_recorded_arrivals_are_replayed_at_their_speed(tmp_path: Path) -> None:
    file = tmp_path / "arrivals"
    file.write_text('103.5\n\n{"at": 100, "what": "else"}\n101\n')
    assert recorded(file) == [0, 1, 3.5]
    twice = job(arrivals=file)
    planned = list(open_loop(twice, Rung(speed=2, warm_s=0, last_s=1), Asks(twice), 0))
    assert [at_s for at_s, _ in planned] == [0, 0.5]


@pytest.mark.parametrize("line", ["soon", '{"when": 1}', '{"at": "1 s"}', "[1]", "null", "NaN", "Infinity"])
def test_recorded_arrivals_that_are_none_are_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "arrivals"
    file.write_text(f"1\n{line}\n")
    with pytest.raises(BadLoad, match=r"arrivals:2: "):
        recorded(file)


def test_a_skew_gives_domains_their_shares() -> None:
    choice = Choice(built_in(), {"math": 0.8, "law": 0.1})
    chance = random.Random(1)
    drawn = Counter(choice.draw(chance).domain for _ in range(5000))
    assert drawn["math"] / 5000 == pytest.approx(0.8, abs=0.02)
    assert drawn["law"] / 5000 == pytest.approx(0.1, abs=0.02)
    assert set(drawn) == {"math", "law", "coding", "health", "science", "general"}


def test_a_skew_may_leave_nothing_for_others() -> None:
    choice = Choice(built_in(), {"math": 1.0, "law": 0.0})
    assert {choice.draw(random.Random(seed)).domain for seed in range(50)} == {"math"}


@pytest.mark.parametrize("written", ["math", "math=much", "math=1.1", "math=-0.1", "math=0.6,law=0.5", "math=nan"])
def test_a_skew_that_is_none_is_refused(written: str) -> None:
    with pytest.raises(BadLoad, match="--skew"):
        read_skew(written)


def test_a_skew_for_prompts_without_such_labels_says_what_there_is() -> None:
    with pytest.raises(BadLoad, match=r"no prompt is labelled maths; the domains there are: coding, general"):
        Choice(built_in(), {"maths": 0.8})
    with pytest.raises(BadLoad, match="the prompts have no domains"):
        Choice([Prompt("a")], {"math": 0.8})
    with pytest.raises(BadLoad, match="20% are left for other domains"):
        Choice([Prompt("a", "math")], {"math": 0.8})


@pytest.mark.parametrize(
    ("written", "mean"),
    [("64", 64), ("16..128", 72), ("normal:64,8", 64), ("lognormal:50,0.5", 56.7), ("exponential:40", 40), ("0", 0)],
)
def test_a_distribution_has_its_mean(written: str, mean: float) -> None:
    chance, drawn = random.Random(0), Distribution.parse(written, "--x")
    values = [drawn.draw(chance) for _ in range(4000)]
    assert statistics.mean(values) == pytest.approx(mean, rel=0.05)
    assert min(drawn.draw_count(chance) for _ in range(200)) >= 1


@pytest.mark.parametrize("written", ["", "many", "-3", "9..2", "normal:5", "lognormal:0,1", "64;"])
def test_what_is_no_distribution_is_refused(written: str) -> None:
    with pytest.raises(BadLoad, match="--output-tokens"):
        Distribution.parse(written, "--output-tokens")


def test_prompts_are_cut_and_lengthened_within_their_domain(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    lines = [{"prompt": "one two three", "domain": "a"}, {"prompt": "vier fünf", "domain": "b", "source": "x"}]
    file.write_text("\n".join(map(json.dumps, lines)))
    asks = Asks(job(prompts=file, prompt_words="7"))
    for seed in range(20):
        ask = asks.draw(random.Random(seed))
        assert len(ask.text.split()) == 7
        assert set(ask.text.split()) <= set(({"a": "one two three", "b": "vier fünf"}[ask.domain]).split())


def test_fresh_prompts_never_begin_alike() -> None:
    asks = Asks(job(fresh=True))
    chance = random.Random(0)
    assert len({asks.draw(chance).text[:14] for _ in range(500)}) == 500


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "2: not JSON"),
        ("[]", 'no text under "prompt"'),
        ('{"prompt": ""}', 'no text under "prompt"'),
        ('{"prompt": "a", "domain": 3}', '"domain" is not text'),
    ],
)
def test_a_prompt_file_that_is_wrong_is_named_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(BadLoad, match=said):
        read_prompts(file)


def test_a_prompt_file_that_is_empty_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.write_text("\n")
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadLoad, match="no prompts in it"):
        read_prompts(empty)
    with pytest.raises(BadLoad, match="not UTF-8"):
        read_prompts(binary)
    with pytest.raises(BadLoad, match="No such file"):
        read_prompts(tmp_path / "missing")


def test_a_ladder_beyond_file_descriptors_is_refused_with_what_would_do() -> None:
    rungs = [Rung(users=10), Rung(users=1000)]
    check_descriptors(job(), rungs, 1024)
    with pytest.raises(BadLoad, match=r"^1000 users: 1000 connections need about 2064 .* --processes 3$"):
        check_descriptors(job(connections=PER_USER), rungs, 1024)
    check_descriptors(job(connections=PER_USER, processes=3), rungs, 1024)
