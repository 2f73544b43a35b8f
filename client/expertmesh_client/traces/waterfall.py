"""A trace as lines for a terminal: the tree, who, how long, and a bar on the time axis. Pure functions."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from expertmesh_client.traces.hops import OTHERWISE, TRANSIT, hops
from expertmesh_client.traces.oddities import SLACK_NS, Odd, Oddity, oddities, other_process
from expertmesh_client.traces.running import NOT_ENDED, progress_note
from expertmesh_client.traces.spans import Span
from expertmesh_client.traces.trace import Trace, about
from expertmesh_client.traces.tree import Node, duration_text

NAME_AT_LEAST, BAR_AT_LEAST = 16, 12  # columns
FULL, THIN, FIRST_TOKEN, OTHER_EVENT = "█", "▏", "◆", "◇"
MARKS = {"gen_ai.first_token": FIRST_TOKEN}


@dataclass(frozen=True, slots=True)
class Row:
    """One span's line. Offsets are seconds on the axis, on which 0 is the start of the trace."""

    guide: str
    span: Span
    note: str
    start_s: float
    events: tuple[tuple[float, str], ...] = ()


def lines_of(roots: Sequence[Node], width: int = 80) -> list[str]:
    """Return the waterfall of a trace, in lines of at most `width` columns, as far as 60 are to be had."""
    odd = oddities(list(roots))
    rows = list(_rows(roots, odd))
    if not rows:
        return []
    whole_s = roots[0].span.seconds
    axis_s = max(whole_s, *(row.start_s + row.span.seconds for row in rows if not row.note.startswith(" !")), 1e-9)
    ends = [
        (row.span.tier, duration_text(row.span.seconds), f"{row.span.seconds / whole_s:.0%}" if whole_s else "")
        for row in rows
    ]
    columns = [max(len(end[at]) for end in ends) for at in range(3)]
    room = max(NAME_AT_LEAST, width - sum(columns) - BAR_AT_LEAST - 8)
    names = [_cut(row.guide + row.span.short_name, room - len(row.note)) + row.note for row in rows]
    longest = max(map(len, names))
    bar_width = max(BAR_AT_LEAST, width - longest - sum(columns) - 8)
    head = " " * (longest + sum(columns) + 8) + "0" + duration_text(axis_s).rjust(bar_width - 1)
    return [
        head,
        *(
            f"{name:<{longest}}  {end[0]:<{columns[0]}}  {end[1]:>{columns[1]}}  {end[2]:>{columns[2]}}  "
            f"{bar(row, axis_s, bar_width)}".rstrip()
            for name, end, row in zip(names, ends, rows, strict=True)
        ),
        *_legend(rows),
        *(f"! {_cut(one.words, width - 2)}" for one in odd.values()),
    ]


def titled(trace: Trace, width: int = 80, now_ns: int = 0) -> list[str]:
    """Return a trace's heading, its waterfall, and the time that lies between its spans.

    Args:
        now_ns: nanoseconds since the epoch, for what has not ended.
    """
    lines = [f"trace {trace.trace_id}"]
    if (word := trace.running(now_ns)) is not None:
        if trace.request is None and word.expert:
            lines.append(f"{word.expert} on {word.replica}" if word.replica else word.expert)
        lines.append(word.words)
    if trace.request is not None:
        said = about(trace.request)
        parts = [f"{said.expert} on {said.replica}" if said.replica else said.expert, said.reason, said.error]
        if said.prompt_tokens is not None and said.completion_tokens is not None:
            parts.append(f"{said.prompt_tokens} + {said.completion_tokens} tokens")
        if words := ", ".join(filter(None, parts)):
            lines.append(words)
    lines += lines_of(trace.roots, width)
    if trace.request is not None and (whole_s := trace.request.span.seconds):
        found = hops(trace.request)
        between = [f"{hop} {duration_text(took)}" for hop, took in found.items() if TRANSIT in hop]
        open_s = sum(took for hop, took in found.items() if hop.endswith(OTHERWISE))
        between.append(f"unexplained {duration_text(open_s)} ({open_s / whole_s:.1%})")
        lines += _wrapped("between the spans: ", between, width)
    return lines


def bar(row: Row, axis_s: float, width: int) -> str:
    """Return a span's bar, `width` columns for `axis_s` seconds, with its events on it."""

    def column(offset_s: float) -> int:
        return min(width - 1, max(0, int(offset_s / axis_s * width)))

    first = column(row.start_s)
    exact = row.span.seconds / axis_s * width
    length = min(width - first, max(1, round(exact)))
    cells = [" "] * first + [FULL if exact >= 0.5 else THIN] * length + [" "] * (width - first - length)
    for offset_s, name in row.events:
        cells[column(offset_s)] = MARKS.get(name, OTHER_EVENT)
    return "".join(cells)


def _rows(roots: Iterable[Node], odd: dict[str, Odd]) -> Iterator[Row]:
    base_ns: int | None = None
    for root in roots:
        if base_ns is None:
            base_ns = root.span.start_ns
        # An orphan, or what has not ended, on some other clock, far off the axis: it is drawn from its beginning.
        shift_ns = root.span.start_ns if root.orphan or root.span.name == NOT_ENDED else base_ns
        yield from _placed(root, shift_ns, "", "", odd)


def _placed(node: Node, shift_ns: int, guide: str, indent: str, odd: dict[str, Odd]) -> Iterator[Row]:
    """Yield the rows of a span and of all in it.

    Args:
        shift_ns: what to take from its process's clock to be on the axis.
    """
    span = node.span
    strange = odd.get(span.span_id)
    note = " !" if strange is not None and strange.what is not Oddity.PARENT_MISSING else ""
    if strange is not None and strange.what is Oddity.PARENT_MISSING:
        note = " (parent missing)"
    elif span.failed:
        note += f" ({span.attributes.get('error.type', 'failed')})"
    note += progress_note(span)
    events = tuple((max(0, event.at_ns - shift_ns) / 1e9, event.name) for event in span.events)
    yield Row(guide, span, note, max(0, span.start_ns - shift_ns) / 1e9, events)
    for child in node.children:
        last = child is node.children[-1]
        own_shift_ns = _shift(span, child.span, shift_ns)
        below = indent + ("   " if last else "│  ")
        yield from _placed(child, own_shift_ns, indent + ("└─ " if last else "├─ "), below, odd)


def _shift(outer: Span, inner: Span, shift_ns: int) -> int:
    """Return the shift of a child: its parent's, unless it is another process's whose clock disagrees.

    Such a child is drawn in the middle of its parent: neither clock can tell where it was.
    """
    beyond = max(outer.start_ns - inner.start_ns, inner.end_ns - outer.end_ns)
    if not other_process(outer, inner) or beyond <= SLACK_NS:
        return shift_ns
    lead_ns = (outer.end_ns - outer.start_ns - (inner.end_ns - inner.start_ns)) // 2
    return inner.start_ns - (outer.start_ns - shift_ns + max(0, lead_ns))


def _legend(rows: Iterable[Row]) -> list[str]:
    """Return what the marks on the bars mean: for each event its name and its first time in each service."""
    found: dict[str, dict[str, float]] = {}
    marks: Counter[str] = Counter()
    for row in rows:
        for offset_s, name in row.events:
            marks[name] += 1
            tiers = found.setdefault(name, {})
            tiers[row.span.tier] = min(offset_s, tiers.get(row.span.tier, offset_s))
    lines = []
    for name, tiers in found.items():
        times = ", ".join(f"{tier} at {duration_text(offset_s)}" for tier, offset_s in tiers.items())
        count = f" ({marks[name]} marks)" if marks[name] > len(tiers) else ""
        lines.append(f"{MARKS.get(name, OTHER_EVENT)} {name}: {times}{count}")
    return lines


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(0, room - 1)] + "…"


def _wrapped(start: str, parts: Sequence[str], width: int) -> list[str]:
    lines = [start]
    for part in parts:
        wanted = part if lines[-1] in (start, "  ") else f"; {part}"
        if len(lines[-1]) + len(wanted) > width:
            lines[-1] += ";"
            lines.append("  ")
            wanted = part
        lines[-1] += wanted
    return lines
