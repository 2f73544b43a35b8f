"""`expertmesh trace` as a user types it: from a Jaeger, from files, and from a mesh that keeps its own traces."""

import asyncio
import json
import os
import sys
import time
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from expertmesh_client.cli import app
from expertmesh_client.traces.disk_store import Bounds, disk_store
from expertmesh_client.traces.spans import Kind
from support.jaeger import jaeger
from support.traces import at, otlp, span, whole_trace
from support.up import ENV, mesh_yaml, up

IDS = [f"{letter}{'0' * 31}" for letter in "abc"]


def run(*args):
    return CliRunner().invoke(app, ["trace", *map(str, args)], env={"EXPERTMESH_TRACES": None, "COLUMNS": "80"})


def slower(spans, by):
    """The same with every time `by` times as long."""
    return [replace(one, start_ns=int(one.start_ns * by), end_ns=int(one.end_ns * by), events=()) for one in spans]


@pytest.fixture
def folder(tmp_path):
    """Three traces of one, two and three times 100 ms, the slowest being the oldest."""
    lines = []
    for number, trace_id in enumerate(IDS):
        began_ns = time.time_ns() - (10 + number) * 60 * 10**9
        lines.append(json.dumps(otlp(at(slower(whole_trace(0), number + 1), began_ns), trace_id)))
    (tmp_path / "traces.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_one_trace_is_shown_by_its_beginning(folder):
    result = run("A", "--from", folder)

    lines = result.stdout.splitlines()
    assert result.exit_code == 0, result.stderr
    assert lines[:2] == [f"trace {IDS[0]}", "math on expert-a, confident, 30 + 11 tokens"]
    assert lines[3].startswith("Generate                    client   100 ms  100%  ██")
    assert max(map(len, lines)) <= 80
    assert result.stderr == ""


def test_the_last_and_the_slowest_are_found(folder):
    last = run("--last", "--from", folder)
    slowest = run("--slowest", "2", "--from", folder)

    assert last.stdout.startswith(f"trace {IDS[0]}\n")
    shown = [line.removeprefix("trace ") for line in slowest.stdout.splitlines() if line.startswith("trace ")]
    assert shown == [IDS[2], IDS[1]]


def test_a_report_is_what_comes_without_a_wish(folder):
    result = run("--from", folder)
    recent = run("--from", folder, "--since", "11m")

    assert result.stdout.startswith("3 answers, ")
    assert "router ↔ expert        12.0 ms   17.4 ms   17.9 ms     6.0%" in result.stdout
    assert "! 8.0% is unexplained, above 2%" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert recent.stdout.startswith("1 answer, ")


def test_groups_and_data_are_given_on_request(folder):
    table = run("--from", folder, "--by", "expert")
    data = json.loads(run("--from", folder, "--by", "size", "--json").stdout)
    one = json.loads(run("--from", folder, "--last", "--json").stdout)

    assert table.stdout.splitlines()[-1].startswith("math   3 200 ms")
    assert list(data["groups"]) == ["≤ 128"]
    assert data["whole"]["p50"] == pytest.approx(0.2)
    assert one[0]["trace_id"] == IDS[0]
    assert one[0]["hops"]["decode"] == pytest.approx(0.05)
    assert one[0]["trace"][0]["children"][0]["service"] == "expertmesh-router"


def test_what_is_exported_can_be_read_again(folder, tmp_path):
    file = tmp_path / "out" / "slow.json"
    file.parent.mkdir()
    result = run("--slowest", "1", "--from", folder, "--export", file)
    piped = run(IDS[2], "--from", folder, "--export", "-")

    assert f"wrote 1 trace to {file}" in result.stderr
    assert run("--last", "--from", file).stdout == result.stdout
    assert json.loads(piped.stdout) == json.loads(file.read_text())


def test_jaeger_is_a_source_like_any_other():
    with jaeger() as there:
        for number, trace_id in enumerate(IDS):
            there.add(otlp(at(whole_trace(), time.time_ns() - number * 60 * 10**9), trace_id))
        report = run("--from", there.url)
        last = run("--last", "--from", there.url)
        one = run(IDS[1], "--from", there.url)
        none = run("--from", there.url, "--service", "nobody")

    assert report.stdout.startswith("3 answers, ")
    assert last.stdout.startswith(f"trace {IDS[0]}\n")
    assert "! Session/start of expert: its clock disagrees with its caller's" in last.stdout
    assert one.stdout.startswith(f"trace {IDS[1]}\n")
    assert none.exit_code == 1


def test_a_request_that_has_not_ended_is_shown_as_it_runs(tmp_path):
    about = {"gen_ai.usage.output_tokens": "250", "expertmesh.stream.seconds": "15", "expertmesh.stream.next_s": "20"}
    word = span("p", "r", "stream.progress", Kind.INTERNAL, 5_000, 10_000, attributes=about)
    admitted = next(one for one in whole_trace() if one.name == "route.admit")
    file = tmp_path / "running.json"
    file.write_text(json.dumps(otlp(at([admitted, word], time.time_ns() - 16 * 10**9))))
    result = run("--last", "--from", file)
    as_json = run("--last", "--json", "--from", file)
    report = run("--from", file)

    assert result.exit_code == 0
    assert "\nstill running: 250 tokens after 15 s" in result.stdout
    assert "stream.progress (250 tokens)" in result.stdout
    assert result.stderr == ""
    assert json.loads(as_json.stdout)[0]["running"]["tokens"] == 250
    assert report.stderr.endswith("among 1 traces of {file}: 1 not ended\n".replace("{file}", str(file)))


def test_a_trace_with_spans_missing_is_shown_and_told(folder, tmp_path):
    file = tmp_path / "part.json"
    file.write_text(json.dumps(otlp([one for one in whole_trace(0) if one.span_id not in ("r", "e3")])))
    result = run("--last", "--from", file)
    report = run("--from", file)

    assert result.exit_code == 0
    assert "(parent missing)" in result.stdout
    assert "is incomplete: the span around route.admit of router has not arrived" in result.stderr
    assert report.exit_code == 1
    assert report.stderr == f"error: no complete answer among 1 traces of {file}: 1 incomplete\n"


def test_the_last_trace_is_waited_for_while_its_spans_arrive(tmp_path):
    file = tmp_path / "x.jsonl"
    spans = at(whole_trace(0), time.time_ns())
    file.write_text(json.dumps(otlp(spans[:6])) + "\n")
    partial = run("--last", "--from", file, "--wait", "0")
    with file.open("a") as more:
        more.write(json.dumps(otlp(spans[6:])) + "\n")
    whole = run("--last", "--from", file)

    assert "is incomplete: the other end of expert call of router" in partial.stderr
    assert whole.stderr == ""


@pytest.mark.parametrize(
    ("args", "code", "line"),
    [
        (["d"], 2, "has no trace that begins with d"),
        (["wizard"], 2, "is not a trace's id"),
        (["--last", "--slowest", "1"], 2, "exclude each other"),
        (["--since", "yesterday"], 2, "give a number and a unit"),
        (["--since", "1m"], 1, "no traces of a mesh found in"),
        (["--by", "wizard"], 2, "wizard"),
        (["--slowest", "0"], 2, "slowest"),
    ],
)
def test_bad_wishes_are_one_line_and_an_exit_code(folder, args, code, line):
    result = run(*args, "--from", folder)

    assert result.exit_code == code
    assert result.stderr.startswith("error: ")
    assert line in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_a_beginning_of_several_names_them(folder):
    extra = otlp(at(whole_trace(0), time.time_ns()), "a1" + "0" * 30)
    (folder / "more.json").write_text(json.dumps(extra))

    result = run("a", "--from", folder)

    assert result.exit_code == 2
    assert result.stderr == f"error: 2 traces begin with a: {IDS[0]}, a1{'0' * 30}\n"


@pytest.mark.parametrize(
    ("place", "code", "line"),
    [
        ("nowhere", 2, "No such file or directory"),
        ("empty", 1, "no traces of a mesh found"),
        ("broken.json", 2, "is not OTLP-JSON"),
        ("http://127.0.0.1:1", 1, "cannot be reached"),
        ("ftp://x", 1, "not the address of a Jaeger"),
    ],
)
def test_a_source_that_gives_nothing_says_why(tmp_path, place, code, line):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("wizard")
    result = run("--from", place if "://" in place else tmp_path / place)

    assert result.exit_code == code
    assert result.stderr.startswith("error: ")
    assert line in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_broken_file_beside_good_ones_is_a_note(folder):
    (folder / "broken.json").write_text("wizard")
    result = run("--from", folder)

    assert result.exit_code == 0
    assert result.stderr.startswith(f"note: {folder / 'broken.json'} is not OTLP-JSON")
    assert result.stdout.startswith("3 answers")


async def test_a_mesh_keeps_its_traces_and_they_are_there_when_it_is_gone(tmp_path):
    """`up --simulated --traces`, `ask`, `trace --last`: while it runs, and after."""
    config, address = mesh_yaml(tmp_path)
    folder = tmp_path / "traces"
    async with up("--config", config, "--simulated", "--json", "--traces", folder) as process:
        said = json.loads(await process.stdout.readline())
        env = ENV | {"OTEL_EXPORTER_OTLP_ENDPOINT": said["traces"]["otlp"]}
        ask = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "expertmesh_client", "ask", "7 × 8?", "--target", address, "--max-tokens", "5"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=env,
        )
        assert await ask.wait() == 0
        running = await asyncio.to_thread(run, "--last", "--from", said["traces"]["query"])
        taken = await asyncio.to_thread(second_store, folder)
        process.terminate()
        await process.wait()
    after = run("--last", "--from", folder)

    assert said["traces"]["folder"] == str(folder)
    assert (running.exit_code, running.stderr) == (0, "")
    assert (after.exit_code, after.stderr) == (0, "")
    for text in (running.stdout, after.stdout):
        for name in ("client", "route.admit", "expert call", "engine.queue", "engine.decode", "◆", "client ↔ router"):
            assert name in text
    assert f"is being written to by process {process.pid}" in taken
    assert after.stdout == running.stdout


def second_store(folder):
    """What a second writer is told."""
    try:
        with disk_store(folder, Bounds(), print):
            return ""
    except Exception as error:
        return str(error)


async def test_a_folder_in_use_is_said_before_anything_starts(tmp_path):
    config, _ = mesh_yaml(tmp_path)
    with disk_store(tmp_path / "traces", Bounds(), print):
        async with up("--config", config, "--simulated", "--traces", tmp_path / "traces") as process:
            _, stderr = await process.communicate()

    assert process.returncode == 1
    assert stderr.decode() == f"error: {tmp_path / 'traces'} is being written to by process {os.getpid()}\n"


def test_a_folder_for_traces_that_go_elsewhere_is_refused(tmp_path):
    result = CliRunner().invoke(app, ["up", "--traces", str(tmp_path), "--no-traces"])

    assert result.exit_code == 2
    assert "--traces has none to keep" in result.stderr
