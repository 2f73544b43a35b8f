"""A report as lines for a terminal of 80 columns, and as plain data. Pure functions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from expertmesh_client.traces.hops import OTHERWISE
from expertmesh_client.traces.report import UNEXPLAINED_LIMIT, Report, Spread
from expertmesh_client.traces.tree import duration_text

_BAR = 18  # columns for a share of 1
_PLACES = 3  # where an unexplained part lies: as many are named


def report_lines(found: Report, left_out: Mapping[str, int]) -> list[str]:
    """Return a report: a heading, the hops with their shares, what they come to."""
    lines = heading(found, left_out)
    lines += ["", f"{'hop':<20}{'p50':>10}{'p95':>10}{'p99':>10}{'share':>9}"]
    lines += [_line(hop, one) for hop, one in found.hops.items() if not hop.endswith(OTHERWISE)]
    lines.append(_line("unexplained", found.unexplained))
    lines += [_line(f"  in {hop.removesuffix(OTHERWISE)}", one, bar=False) for hop, one in _open(found)]
    lines.append(_line("whole answer", found.whole, bar=False))
    lines.append("")
    for name, one, meaning in (
        ("first token", found.first_token, "as the caller saw it"),
        ("between tokens", found.between_tokens, "in the engine"),
        ("relay per token", found.relay_per_token, "transit and router"),
    ):
        if one is not None:
            lines.append(f"{_line(name, one, share=False)}    {meaning}")
    waited = found.queue.share / ((found.queue.share + found.compute.share) or 1)
    lines.append(
        f"queue against compute, p50: {duration_text(found.queue.p50)} against {duration_text(found.compute.p50)};"
        f" {waited:.1%} of both was waiting"
    )
    return lines + _warnings(found)


def group_lines(groups: Mapping[str, Report], by: str) -> list[str]:
    """Return a line for each group.

    How many, how long, the first token; then the shares of what the mesh does, which is decisions and transits, of
    waiting, of the engine, and of what no span explains.
    """
    head = (by, "n", "p50", "p95", "p99", "1st tok", "mesh", "queue", "compute", "unexpl.")
    rows = [head, *((name, *_cells(one)) for name, one in groups.items())]
    widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
    return [
        " ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def heading(found: Report, left_out: Mapping[str, int]) -> list[str]:
    from_, to = _time(found.from_ns), _time(found.to_ns)
    to = to.removeprefix(from_[: len("01 Jan ")])  # the day once, where it is one
    lines = [f"{_count(found.answers, 'answer')}, {from_} to {to} UTC"]
    if left_out:
        lines.append("left out: " + ", ".join(f"{count} {why}" for why, count in Counter(left_out).most_common()))
    return lines


def report_data(found: Report, left_out: Mapping[str, int], groups: Mapping[str, Report] | None) -> dict[str, Any]:
    """Return a report as plain data, for JSON. Times are seconds, shares are of 1."""
    data = asdict(found) | {"explained": found.explained, "left_out": dict(left_out)}
    if groups is not None:
        data["groups"] = {name: asdict(one) | {"explained": one.explained} for name, one in groups.items()}
    return data


def _open(found: Report) -> list[tuple[str, Spread]]:
    return [(hop, one) for hop, one in found.hops.items() if hop.endswith(OTHERWISE)]


def _line(name: str, one: Spread, *, bar: bool = True, share: bool = True) -> str:
    times = "".join(f"{duration_text(value):>10}" for value in (one.p50, one.p95, one.p99))
    text = f"{name[:20]:<20}{times}"
    if share:
        text += f"{one.share:>9.1%}"
    if bar and one.share * _BAR >= 0.5:
        text += "  " + "█" * round(one.share * _BAR)
    return text


def _warnings(found: Report) -> list[str]:
    lines = []
    if not found.explained:
        lines.append(f"! {found.unexplained.share:.1%} is unexplained, above {UNEXPLAINED_LIMIT:.0%}; without a span:")
        places = [(label, share) for label, share in found.unexplained_at.items() if share >= 0.001]
        lines += [f"    {share:.1%} {label}" for label, share in places[:_PLACES]]
    if found.clock_trouble:
        lines.append(
            f"! in {_count(found.clock_trouble, 'answer')} a span is longer than what it happened in: cut to fit"
        )
    return lines


def _cells(one: Report) -> Sequence[str]:
    first = duration_text(one.first_token.p50) if one.first_token is not None else "-"
    times = (duration_text(value) for value in (one.whole.p50, one.whole.p95, one.whole.p99))
    shares = (one.decision.share + one.transit.share, one.queue.share, one.compute.share, one.unexplained.share)
    return str(one.answers), *times, first, *(f"{share:.1%}" for share in shares)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _time(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / 1e9, UTC).strftime("%d %b %H:%M:%S")
