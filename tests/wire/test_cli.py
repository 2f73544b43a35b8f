"""The command line against a real server: what it prints, where, and how it ends."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from expertmesh.v1.generation_pb2 import Precision
from expertmesh_client.cli import app
from expertmesh_client.traces.local import local_traces
from mesh_wire.errors import Busy, NotFound, Unavailable
from mesh_wire.tls import ServerTls
from support.scripted import scripted
from support.waiting import eventually

PEM = Path(__file__).parents[1] / "support" / "tls"


async def run(node, *args, **more):
    """Run a command within this process, against a node."""
    return await asyncio.to_thread(CliRunner().invoke, app, [*args, "--target", node.target], **more)


def started(*args, **more):
    """Start a command as a process."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | more
    return subprocess.Popen([sys.executable, "-m", "expertmesh_client", *args], **pipes)  # noqa: S603 - our own


async def test_ask_streams_the_text_to_stdout_and_the_route_to_stderr():
    async with scripted() as node:
        result = await run(node, "ask", "7 × 8?", "--expert", "math", "--max-tokens", "9", "--temperature", "0")

    assert (result.exit_code, result.stdout) == (0, "Fifty six\n")
    assert result.stderr == "[math on expert-a: confident 0.75]\n"
    assert (node.asked[0].prompt, node.asked[0].expert) == ("7 × 8?", "math")
    assert node.asked[0].sampling.max_new_tokens == 9
    assert node.asked[0].sampling.HasField("temperature")


async def test_ask_prints_one_object_on_request():
    async with scripted() as node:
        result = await run(node, "ask", "7 × 8?", "--json")

    assert json.loads(result.stdout) == {
        "text": "Fifty six",
        "expert": "math",
        "replica": "expert-a",
        "reason": "confident",
        "score": 0.75,
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "cached_prompt_tokens": 0},
        "timings": {"classify": 0.001, "queue": 0.002, "prefill": 0.003, "decode": 0.5},
        "finish_reason": "stop",
        "request_id": "r-1",
    }
    assert result.stderr == ""


async def test_ask_tells_no_route_where_an_expert_answers_directly():
    async with scripted(as_expert=True) as node:
        result = await run(node, "ask", "7 × 8?", "--json", "--expert", "math")

    told = json.loads(result.stdout)
    assert (told["expert"], told["replica"], told["reason"], told["score"]) == ("math", None, None, None)


async def test_ask_takes_the_prompt_from_standard_input():
    async with scripted() as node:
        result = await run(node, "ask", "-", input="two\nlines\n")

    assert result.exit_code == 0
    assert node.asked[0].prompt == "two\nlines"


async def test_ask_passes_every_sampling_option_on(tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    options = "--top-p 0.5 --top-k 4 --min-p 0.25 --seed 7 --min-tokens 2 --max-tokens 3 --presence-penalty 1"
    options += f" --frequency-penalty -1 --repetition-penalty 2 --stop a --stop b --json-schema {schema}"
    async with scripted() as node:
        await run(node, "ask", "x", *options.split())
        await run(node, "ask", "x", "--regex", "[0-9]+")

    sampling = node.asked[0].sampling
    assert (sampling.top_p, sampling.top_k, sampling.min_p, sampling.seed) == (0.5, 4, 0.25, 7)
    assert (sampling.min_new_tokens, sampling.max_new_tokens, list(sampling.stop)) == (2, 3, ["a", "b"])
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (1, -1, 2)
    assert sampling.structured_output.json_schema == '{"type": "object"}'
    assert node.asked[1].sampling.structured_output.regex == "[0-9]+"


async def test_ask_shows_its_trace_as_a_tree():
    """The node records no spans of its own, so the tree is the client's span and a note."""
    async with scripted() as node:
        with local_traces(0, 0) as traces:
            env = {"OTEL_EXPORTER_OTLP_ENDPOINT": traces.otlp_endpoint, "OTEL_TRACES_SAMPLER": None}
            trace = ["--trace", "--jaeger", traces.query_url, "--trace-wait", "0.2"]
            result = await run(node, "ask", "7 × 8?", *trace, env=env)
            data = await run(node, "ask", "7 × 8?", "--json", *trace, env=env)

    assert result.exit_code == 0
    assert "Fifty six\n\ntrace " in result.stdout
    assert "\nGenerate  client " in result.stdout
    assert "note: the trace is incomplete: the other end of" in result.stderr
    assert json.loads(data.stdout)["trace"][0]["name"] == "expertmesh.v1.InferenceService/Generate"


async def test_ask_gives_the_answer_even_where_no_trace_can_be_had():
    async with scripted() as node:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_SAMPLER": None}
        result = await run(node, "ask", "7 × 8?", "--trace", "--jaeger", "http://127.0.0.1:1", env=env)

    assert result.exit_code == 1
    assert "Fifty six" in result.stdout
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: http://127.0.0.1:1/api/v3/traces/")
    assert "cannot be reached" in last


async def test_ask_says_so_where_tracing_is_switched_off():
    async with scripted() as node:
        result = await run(node, "ask", "x", "--trace", env={"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_SAMPLER": None})

    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("error: tracing is switched off")


async def test_ask_goes_over_tls():
    server = ServerTls(certificate=PEM / "server.pem", key=PEM / "server.key", client_authority=PEM / "authority.pem")
    tls = ["--ca", PEM / "authority.pem", "--cert", PEM / "client.pem", "--key", PEM / "client.key"]
    async with scripted(tls=server) as node:
        result = await run(node, "ask", "x", *map(str, tls), "--server-name", "expert.test")

    assert (result.exit_code, result.stdout) == (0, "Fifty six\n")


async def test_route_explains_the_decision():
    async with scripted() as node:
        result = await run(node, "route", "7 × 8?")
        data = await run(node, "route", "7 × 8?", "--json")

    lines = result.stdout.splitlines()
    assert lines[:2] == ["math on expert-a (127.0.0.1:50061)", "confident: it scored best with 0.75"]
    assert lines[3].split()[:2] == ["math", "0.750"]
    assert max(map(len, lines)) <= 80
    told = json.loads(data.stdout)
    assert (told["expert"], told["reason"], told["scores"]) == ("math", "confident", {"math": 0.75, "general": 0.25})
    assert told["replicas"][0]["expected_wait_s"] == 0.25
    assert "ticket" not in told["response"]


async def test_experts_shows_the_fleet():
    async with scripted() as node:
        result = await run(node, "experts")
        data = await run(node, "experts", "--json")

    lines = result.stdout.splitlines()
    assert lines[1].split() == ["math", "expert-a", "127.0.0.1:50061", "serving", "2", "1", "50%", "40"]
    assert lines[2].startswith("general *")
    assert lines[-1] == "unreachable: 127.0.0.1:50062: connection refused"
    assert max(map(len, lines)) <= 80
    told = json.loads(data.stdout)
    assert told["experts"][0]["replicas"][0]["load"]["running"] == 2
    assert told["experts"][0]["replicas"][0]["description"]["experts"] == [
        {"name": "math", "adapter": "math", "variant": ""}
    ]
    assert told["unreachable"] == [{"endpoint": "127.0.0.1:50062", "reason": "connection refused"}]


async def test_chat_keeps_the_conversation():
    async with scripted() as node:
        result = await run(node, "chat", "--system", "be kind", input="7 × 8?\n\nand 9?\n")
        data = await run(node, "chat", "--json", input="7 × 8?\nand 9?\n")

    assert result.exit_code == 0
    assert result.stdout == "Fifty six\nFifty six\n"
    assert result.stderr.count("[math on expert-a: confident 0.75]") == 2
    turns = [(turn.role, turn.parts[0].text) for turn in node.asked[1].chat.messages]
    assert turns == [(1, "be kind"), (2, "7 × 8?"), (3, "Fifty six"), (2, "and 9?")]
    assert [json.loads(line)["text"] for line in data.stdout.splitlines()] == ["Fifty six", "Fifty six"]
    names = [asked.conversation for asked in node.asked]
    assert names[0] == names[1] != names[2] == names[3]


@pytest.mark.parametrize("command", ["ask", "chat"])
async def test_the_precision_that_was_asked_for_travels_along(command):
    async with scripted() as node:
        for wish in ("full", "lower"):
            await run(node, command, *(["x"] if command == "ask" else []), "--precision", wish, input="x\n")

    assert [asked.precision for asked in node.asked] == [Precision.PRECISION_FULL, Precision.PRECISION_LOWER]


@pytest.mark.parametrize(
    ("refusal", "line", "code"),
    [
        (NotFound("no expert is called x", reason="EXPERT_UNKNOWN", field="expert"), "EXPERT_UNKNOWN", 2),
        (Busy("full\nhouse", reason="ROUTER_BUSY", retry_after_s=1.0), "ROUTER_BUSY: full house", 1),
    ],
)
@pytest.mark.parametrize("command", ["ask", "route", "chat"])
async def test_a_failure_is_one_line_and_an_exit_code(command, refusal, line, code):
    async with scripted(refusals=[refusal]) as node:
        if command == "chat":
            result = await run(node, "chat", input="x\n")
        else:
            result = await run(node, command, "x")

    assert result.exit_code == code
    assert result.stderr.startswith(f"error: {line}")
    assert len(result.stderr.splitlines()) == 1


async def test_what_came_before_a_failure_is_shown():
    breaks = Unavailable("the engine died", reason="ENGINE_DEAD")
    async with scripted(breaks=breaks) as node:
        result = await run(node, "ask", "x")

    assert (result.exit_code, result.stdout) == (1, "Fifty six\n")
    assert result.stderr.splitlines()[-1] == "error: ENGINE_DEAD: the engine died"


def test_nobody_there_is_said_with_what_to_do():
    result = CliRunner().invoke(app, ["experts", "--target", "127.0.0.1:1"])

    assert result.exit_code == 1
    assert result.stderr.startswith("error: UNAVAILABLE: ")
    assert "`expertmesh up` starts one" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "args",
    [
        ["wizard"],
        ["ask"],
        ["ask", "x", "--wizard"],
        ["ask", "x", "--max-tokens", "many"],
        ["ask", "x", "--ca", "/nowhere.pem"],
        ["ask", "x", "--cert", __file__],
        ["ask", "x", "--timeout", "0"],
        ["ask", "x", "--top-k", "-1"],
        ["route", "x", "--precision", "half"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(args):
    result = CliRunner().invoke(app, args)

    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_help_tells_the_commands_and_the_exit_codes():
    result = CliRunner().invoke(app, ["--help"])

    assert result.exit_code == 0
    for word in ("up", "ask", "chat", "route", "experts", "--install-completion", "Exit codes", "3 `load`"):
        assert word in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert CliRunner().invoke(app, []).exit_code == 2


def test_help_loads_neither_grpc_nor_rich():
    code = "import sys, expertmesh_client.cli; print([m for m in ('grpc', 'rich', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603

    assert done.stdout == "[]\n"


def test_a_shell_can_complete():
    env = {**os.environ, "_EXPERTMESH_COMPLETE": "complete_bash", "COMP_WORDS": "expertmesh ex", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "expertmesh_client"], capture_output=True, text=True, env=env, check=False
    )

    assert done.stdout.split() == ["experts"]


async def test_ctrl_c_ends_the_call_and_the_command():
    async with scripted(endless=True) as node:
        asking = await asyncio.to_thread(started, "ask", "x", "--target", node.target)
        await eventually(lambda: node.running == 1)
        assert await asyncio.to_thread(asking.stdout.read, 9) == "Fifty six"

        asking.send_signal(signal.SIGINT)

        stdout, stderr = await asyncio.to_thread(asking.communicate)
        await eventually(lambda: node.running == 0)
    assert asking.returncode == 130
    assert stdout == "\n"
    assert stderr == "[math on expert-a: confident 0.75]\n"


async def test_ctrl_c_in_a_conversation_stops_the_answer_alone():
    async with scripted(endless=True) as node:
        terminal, theirs = os.openpty()
        talking = await asyncio.to_thread(started, "chat", "--target", node.target, stdin=theirs)
        os.write(terminal, b"hello\n")
        assert await asyncio.to_thread(talking.stdout.read, 9) == "Fifty six"

        talking.send_signal(signal.SIGINT)
        await eventually(lambda: node.running == 0)
        os.write(terminal, b"again\n")
        assert await asyncio.to_thread(talking.stdout.read, 12) == " …\nFifty six"
        talking.send_signal(signal.SIGINT)
        await eventually(lambda: node.running == 0)
        os.write(terminal, b"\x04")  # Ctrl-D

        _, stderr = await asyncio.to_thread(talking.communicate)
        os.close(terminal)
        os.close(theirs)
    assert talking.returncode == 0
    assert stderr.startswith("> [math on expert-a: confident 0.75]\n> ")
    assert [turn.parts[0].text for turn in node.asked[1].chat.messages][::2] == ["hello", "again"]


async def test_a_reader_that_leaves_is_no_error():
    async with scripted(words=("word " * 100,) * 1000) as node:
        asking = await asyncio.to_thread(started, "ask", "x", "--target", node.target)
        assert await asyncio.to_thread(asking.stdout.read, 4) == "word"
        asking.stdout.close()
        stderr = await asyncio.to_thread(asking.stderr.read)
        code = await asyncio.to_thread(asking.wait)
        asking.stderr.close()

    assert code == 1
    assert "Traceback" not in stderr
    assert "error" not in stderr
