"""Files of traces are read whatever has happened to them; what had to be passed over is said."""

import json
import os
from dataclasses import replace

import pytest

from expertmesh_client.traces.files import SPARE, Unreadable, files_of, read
from expertmesh_client.traces.sources import FileSource, source_of
from support.traces import at, otlp, whole_trace

START_NS = 1_700_000_000 * 10**9


def line(number=0, spans=None):
    """One trace as a line, `number` seconds after the first."""
    return json.dumps(otlp(at(spans or whole_trace(0), START_NS + number * 10**9), f"{number + 1:032x}")) + "\n"


def written(path, text, changed=0):
    path.write_text(text)
    os.utime(path, (1_700_000_000 + changed, 1_700_000_000 + changed))
    return path


def test_a_line_each_an_object_a_list_and_jaegers_answer_are_read_alike(tmp_path):
    one = otlp(whole_trace(0))
    forms = [json.dumps(one) + "\n", json.dumps(one, indent=2), json.dumps([one]), json.dumps({"result": one})]
    for text in forms:
        traces = {}
        assert read(written(tmp_path / "x.json", text), traces) == []
        assert [len(trace.spans) for trace in traces.values()] == [10], text[:20]


def test_a_torn_last_line_is_passed_over_in_silence(tmp_path):
    traces = {}

    assert read(written(tmp_path / "spans-1.jsonl", line() + line(1)[:70]), traces) == []
    assert len(traces) == 1
    assert read(written(tmp_path / "spans-2.jsonl", line()[:70]), {}) == []


def test_a_broken_line_in_the_middle_is_named_and_the_rest_is_read(tmp_path):
    traces = {}
    file = written(tmp_path / "x.jsonl", line() + "wizard\n" + '{"a": 1}\n' + line(1))

    [note] = read(file, traces)

    assert note.startswith(f"{file}: 2 lines were passed over; line 2: Expecting value")
    assert len(traces) == 2


def test_a_broken_first_line_does_not_hide_the_others(tmp_path):
    traces = {}

    [note] = read(written(tmp_path / "x.jsonl", "wizard\n" + line()), traces)

    assert "1 line was passed over; line 1" in note
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wizard", "line 1: Expecting value"),
        ("[" * 100_000, "nested too deeply"),
        ('{"data": []}', "Jaeger's own JSON"),
        ('{"a": 1}\n', "resourceSpans"),
        ("\x00\xff", "line 1"),
    ],
)
def test_a_file_of_something_else_is_refused_with_a_reason(tmp_path, text, words):
    with pytest.raises(Unreadable, match=words):
        read(written(tmp_path / "x.json", text), {})


def test_an_empty_file_holds_no_traces(tmp_path):
    with pytest.raises(Unreadable):
        read(written(tmp_path / "x.json", ""), {})
    assert read(written(tmp_path / "spans-1.jsonl", ""), {}) == []


def test_a_broken_file_in_a_folder_is_named_and_the_others_are_read(tmp_path):
    written(tmp_path / "good.jsonl", line())
    written(tmp_path / "bad.json", "wizard")
    written(tmp_path / "notes.txt", "not looked at")
    source = FileSource(tmp_path)

    assert len(source.newest(10, None)) == 1
    assert source.notes == [
        f"{tmp_path / 'bad.json'} is not OTLP-JSON: line 1: Expecting value: line 1 column 1 (char 0)"
    ]


def test_a_folder_of_nothing_but_broken_files_is_refused(tmp_path):
    written(tmp_path / "bad.json", "wizard")

    with pytest.raises(Unreadable, match=r"bad\.json"):
        FileSource(tmp_path).newest(10, None)


def test_the_newest_come_first_and_no_more_is_read_than_needed(tmp_path):
    """A trace may stand in two files, so one more is read than has enough."""
    for number in range(4):
        written(tmp_path / f"spans-{number}.jsonl", line(number), changed=number)
    (tmp_path / "spans-1.jsonl").write_text("wizard\n")
    os.utime(tmp_path / "spans-1.jsonl", (1_700_000_001, 1_700_000_001))
    source = FileSource(tmp_path)

    assert [int(trace.trace_id, 16) for trace in source.newest(1, None)] == [4]
    assert source.notes == []


def test_a_trace_that_stands_in_two_files_is_one(tmp_path):
    spans = whole_trace(0)
    written(tmp_path / "spans-0.jsonl", line(0, spans[:4]))
    written(tmp_path / "spans-1.jsonl", line(0, spans[4:]), changed=1)

    [trace] = FileSource(tmp_path).newest(1, None)

    assert len(trace.spans) == 10


def test_only_so_many_traces_are_held_at_a_time(tmp_path):
    count = SPARE + 20
    small = [one for one in whole_trace(0) if one.span_id == "c"]
    file = written(tmp_path / "x.jsonl", "".join(line(number, small) for number in range(count)))
    traces = {}

    read(file, traces, keep=5)

    assert len(traces) < count
    assert f"{count:032x}" in traces


def test_old_traces_and_those_of_others_are_left_out(tmp_path):
    others = [replace(one, name="GET /") for one in whole_trace(0)[:1]]
    source = FileSource(written(tmp_path / "x.jsonl", line() + line(1, others)))

    assert len(source.newest(10, None)) == 1
    assert source.newest(10, since_s=60) == []


def test_a_beginning_finds_its_traces_in_every_form(tmp_path):
    written(tmp_path / "a.jsonl", line(0x1A) + line(0x2B))
    written(tmp_path / "b.json", json.dumps(json.loads(line(0x1C)), indent=1))
    source = FileSource(tmp_path)

    assert len(source.beginning("0" * 20)) == 3
    assert sorted(trace.trace_id[-2:] for trace in source.beginning("0" * 30 + "1")) == ["1b", "1d"]
    assert len(source.beginning("0" * 30 + "1d")) == 1
    assert source.beginning("f") == []


def test_a_path_with_nothing_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        source_of(str(tmp_path / "nowhere"))


def test_a_file_that_is_removed_meanwhile_holds_nothing(tmp_path):
    assert read(tmp_path / "gone.jsonl", {}) == []


def test_files_are_read_from_the_newest_on(tmp_path):
    for number in (2, 0, 1):
        written(tmp_path / f"spans-{number}.jsonl", line(number), changed=number)

    assert [file.name for file in files_of(tmp_path)] == [f"spans-{number}.jsonl" for number in (2, 1, 0)]
