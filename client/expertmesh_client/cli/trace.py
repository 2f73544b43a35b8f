"""`expertmesh trace`: where the time went, of one request as a waterfall, of many as a report."""

import json
import re
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from expertmesh_client.cli.failures import WRONG, Failure

if TYPE_CHECKING:
    from expertmesh_client.traces.sources import Source
    from expertmesh_client.traces.trace import Trace

RECENT_S = 10.0  # spans of a request may come for so long after it: OpenTelemetry exports every 5 s
AMONG = 200  # newest traces, among which the last answer is looked for
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def trace(
    trace_id: Annotated[str, typer.Argument(metavar="ID", help="A trace's id, or its beginning.")] = "",
    last: Annotated[bool, typer.Option("--last", help="The newest answer.")] = False,
    slowest: Annotated[int | None, typer.Option(min=1, metavar="N", help="The N slowest answers.")] = None,
    by: Annotated[
        Literal["expert", "reason", "size"] | None, typer.Option(help="A report for each; size: tokens in and out.")
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            envvar=["EXPERTMESH_TRACES", "EXPERTMESH_JAEGER"],
            metavar="DIR|FILE|URL",
            help="What `up --traces` keeps, OTLP-JSON, or a Jaeger.",
        ),
    ] = "http://localhost:16686",
    since: Annotated[str, typer.Option(metavar="TIME", help="Of the last 90s, 15m, 12h or 7d.")] = "",
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="The newest N traces at most.")] = 1000,
    service: Annotated[
        str, typer.Option(metavar="NAME", help="Whose spans a Jaeger is searched for; else the router's.")
    ] = "",
    wait: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long --last waits for spans.")] = 6,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write them as OTLP-JSON, which Jaeger's pages open.")
    ] = None,
) -> None:
    """Show where the time went.

    With an ID, --last or --slowest: one request's spans on a time axis. Without: a report over many, by hop.
    """
    if sum(map(bool, (trace_id, last, slowest, by))) > 1:
        raise typer.BadParameter("ID, --last, --slowest and --by exclude each other")
    if trace_id and not re.fullmatch("[0-9a-fA-F]{1,32}", trace_id):
        raise typer.BadParameter(f"{trace_id} is not a trace's id: up to 32 hexadecimal digits")
    since_s = _seconds(since)

    from expertmesh_client.traces.files import Unreadable
    from expertmesh_client.traces.jaeger import TraceUnavailable
    from expertmesh_client.traces.sources import source_of

    try:
        there = source_of(source, service)
        if trace_id:
            shown = [_one(there, source, trace_id.lower())]
        elif last:
            shown = [_last(there, source, since_s, wait)]
        else:
            shown = _newest(there, source, limit, since_s)
    except Unreadable as error:
        raise Failure(str(error), code=WRONG) from None
    except FileNotFoundError as error:
        raise Failure(f"{error.filename}: {error.strerror}", code=WRONG) from None
    except TraceUnavailable as error:
        raise Failure(f"{error}; `expertmesh up` and Jaeger give traces out, --from says where they are") from None
    for note in there.notes:
        print(f"note: {note}", file=sys.stderr)

    if slowest:
        shown = _slowest(shown, slowest)
    if export is not None:
        _write(shown, export)
        if str(export) == "-":  # and nothing else there
            return
    if trace_id or last or slowest:
        _show(shown, as_json)
    else:
        _report(shown, source, by, as_json)


def _one(there: "Source", place: str, prefix: str) -> "Trace":
    found = there.beginning(prefix)
    if not found:
        raise Failure(f"{place} has no trace that begins with {prefix}", code=WRONG)
    if len(found) > 1:
        ids = ", ".join(sorted(each.trace_id for each in found)[:4]) + (", …" if len(found) > 4 else "")
        raise Failure(f"{len(found)} traces begin with {prefix}: {ids}", code=WRONG)
    return found[0]


def _newest(there: "Source", place: str, limit: int, since_s: float | None) -> "list[Trace]":
    found = there.newest(limit, since_s)
    if not found:
        for note in there.notes:
            print(f"note: {note}", file=sys.stderr)
        when = f" of the last {since_s:g} s" if since_s is not None else ""
        raise Failure(f"no traces of a mesh found in {place}{when}; `expertmesh ask --trace` makes one")
    return found


def _last(there: "Source", place: str, since_s: float | None, wait_s: float) -> "Trace":
    """Return the newest answer's trace. One that is so new that spans may be on their way is waited for."""
    from expertmesh_client.traces.trace import lacks

    until = time.monotonic() + wait_s
    while True:
        found = _newest(there, place, AMONG, since_s)
        now_ns = time.time_ns()
        newest = next((each for each in found if each.request is not None or each.running(now_ns)), found[0])
        old = time.time() - newest.start_ns / 1e9 > RECENT_S
        if not lacks(newest) or newest.running(now_ns) or old or time.monotonic() >= until:
            return newest
        time.sleep(0.2)  # neither files nor Jaeger can tell when more has arrived


def _slowest(traces: "list[Trace]", count: int) -> "list[Trace]":
    answered = [each for each in traces if each.request is not None]
    if not answered:
        raise Failure(f"none of {len(traces)} traces has an answer in it")
    return sorted(answered, key=_duration, reverse=True)[:count]


def _duration(one: "Trace") -> float:
    return one.request.span.seconds if one.request is not None else 0.0


def _show(traces: "list[Trace]", as_json: bool) -> None:
    from expertmesh_client.traces.hops import hops
    from expertmesh_client.traces.oddities import oddities
    from expertmesh_client.traces.trace import lacks
    from expertmesh_client.traces.tree import data_of
    from expertmesh_client.traces.waterfall import titled

    if as_json:
        told = [
            {
                "trace_id": each.trace_id,
                "trace": [data_of(root) for root in each.roots],
                "hops": hops(each.request) if each.request is not None else {},
                "lacks": lacks(each),
                "running": asdict(word) if (word := each.running(time.time_ns())) is not None else None,
                "odd": [one.words for one in oddities(each.roots).values()],
            }
            for each in traces
        ]
        print(json.dumps(told, ensure_ascii=False, indent=2))
        return
    width = shutil.get_terminal_size().columns
    print("\n\n".join("\n".join(titled(each, width, time.time_ns())) for each in traces))
    for each in traces:
        if each.request is not None and (missing := lacks(each)):
            print(f"note: trace {each.trace_id} is incomplete: {missing}", file=sys.stderr)


def _report(traces: "list[Trace]", place: str, by: str | None, as_json: bool) -> None:
    from expertmesh_client.traces.report import grouped, report, sort_out
    from expertmesh_client.traces.report_text import group_lines, heading, report_data, report_lines

    found = sort_out(traces)
    if not found.answers:
        why = ", ".join(f"{count} {reason}" for reason, count in found.left_out.most_common())
        raise Failure(f"no complete answer among {len(traces)} traces of {place}: {why}")
    whole = report(found.answers)
    groups = {name: report(answers) for name, answers in grouped(found.answers, by).items()} if by else None
    if as_json:
        print(json.dumps(report_data(whole, found.left_out, groups), ensure_ascii=False, indent=2))
    elif groups is not None and by:
        print(*heading(whole, found.left_out), "", *group_lines(groups, by), sep="\n")
    else:
        print(*report_lines(whole, found.left_out), sep="\n")


def _write(traces: "list[Trace]", path: Path) -> None:
    data: dict[str, Any] = {"resourceSpans": [entry for each in traces for entry in each.otlp_json]}
    written = json.dumps(data, ensure_ascii=False)
    if str(path) == "-":
        print(written)
        return
    path.write_text(written, encoding="utf-8")
    noun = "trace" if len(traces) == 1 else "traces"
    print(f"wrote {len(traces)} {noun} to {path}: in Jaeger, Search, Upload", file=sys.stderr)


def _seconds(text: str) -> float | None:
    """Return a time such as 15m in seconds; None where there is no text."""
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise typer.BadParameter(f"--since {text}: give a number and a unit, as in 90s, 15m, 12h or 7d")
    return float(match[1]) * _UNITS[match[2]]
