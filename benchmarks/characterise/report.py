"""The report: one HTML page with everything in it, and the same as JSON beside it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.characterise import plots, tables, words
from benchmarks.characterise.findings import Finding, findings
from benchmarks.characterise.profile import load
from benchmarks.characterise.rows import Series
from benchmarks.characterise.store import written
from benchmarks.report import machine
from router_svc.evaluation.page import Picture, Section, page

KINDS = {"simulated": "Simulated H100", "real": "Real: vLLM on this machine's CPU"}
PAGE, DATA = "characterisation.html", "characterisation.json"
PLOTS = {
    "P3": ("first_token_s", "time to first token"),
    "P4": ("session_s", "session time"),
    "P5": ("inter_token_s", "inter-token latency"),
}


def build(
    folder: Path, series: Sequence[Series], *, command: str, missing: Sequence[str], failed: Mapping[str, str]
) -> Path:
    """Write the page and the JSON; returns the page's path.

    Args:
        series: configurations with what was measured of each; at least one.
        command: that made the results.
        missing: the configuration's title of each cell of the grid without a complete result.
        failed: configurations that could not be measured -> why.

    Raises:
        NotKept: a file could not be written.
    """
    with suppress(OSError):  # writing says it
        folder.mkdir(parents=True, exist_ok=True)
    found = [each for kind in KINDS if _of(series, kind) for each in findings(series, kind)]
    told = document(series, found, command, missing, failed)
    written(folder / DATA, json.dumps(told, indent=1) + "\n")
    path = folder / PAGE
    written(path, html(series, found, command=command, missing=missing, failed=failed))
    return path


def document(
    series: Sequence[Series],
    found: Sequence[Finding],
    command: str,
    missing: Sequence[str],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    """Return what is written as JSON; rows are in simulated seconds where their configuration is simulated."""
    return {
        "measures": "characterisation",
        "command": command,
        "complete": not missing and not failed,
        "missing": list(missing),
        "failed": dict(failed),
        "machine": machine(),
        "findings": [each.told() for each in found],
        "configurations": [
            {
                "key": each.configuration.key,
                "title": each.configuration.title,
                "role": each.configuration.role,
                **each.configuration.told(),
                "saturates_at_users": tables.saturates(each),
                "carries_users": tables.carried(each),
                "rows": [row.told() for row in (*each.routed, *each.direct)],
            }
            for each in series
        ],
    }


def html(
    series: Sequence[Series],
    found: Sequence[Finding],
    *,
    command: str,
    missing: Sequence[str],
    failed: Mapping[str, str],
) -> str:
    """Return the page."""
    rows = [(each.letter, KINDS[each.kind].partition(":")[0], each.verdict, each.figure) for each in found]
    verdicts = (("finding", "kind", "verdict", "figure"), rows)
    loads = [row for each in series for row in (*each.routed, *each.direct)]
    late = sum(bool(row.late) for row in loads)
    sections = [
        Section("The paper's findings", "Each stands below with its sentence.", verdicts, ()),
        Section("How to read it", words.how_to_read(late, missing, failed), None, ()),
    ]
    for kind, title in KINDS.items():
        if ours := _of(series, kind):
            sections += _sections(ours, [each for each in found if each.kind == kind], kind, title)
    sections += _sources(series)
    about = machine()
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    summary = (
        f"Made by: {command}. {len(loads)} loads on {len(series)} configurations. Machine: {about['processor']}, "
        f"{about['cores']} cores, Python {about['python']}, {versions}."
    )
    return page("Characterisation of Expert Router configurations", summary, sections)


def _sections(series: Sequence[Series], found: Sequence[Finding], kind: str, title: str) -> Iterator[Section]:
    yield Section(f"{title}: T1, configurations", words.OF_KIND[kind], tables.configurations(series), ())
    for each in found:
        text = f"{each.claim} {each.sentence} See {each.figure}."
        yield Section(f"{title}: finding {each.letter}, {each.verdict}", text, None, ())
    for both in series:
        if both.direct and both.routed:
            picture = _picture(kind, "P1", f"{both.configuration.title}. {words.P1}", plots.overhead(both, kind))
            yield Section(f"{title}: P1, routing overhead", words.STAGES, tables.overhead(both), (picture,))
    drawn = [each for each in series if each.routed and each.configuration.role != "hop"]
    if not drawn:
        return
    picture = _picture(kind, "P2", words.P2 + words.KNEE, plots.throughput(drawn, kind))
    yield Section(f"{title}: P2, throughput", "", tables.figures(drawn, "throughput"), (picture,))
    for number, (name, what) in PLOTS.items():
        caption = f"{what[:1].upper()}{what[1:]} over users.{words.KNEE}"
        picture = _picture(kind, number, caption, plots.times(drawn, kind, name, what))
        yield Section(f"{title}: {number}, {what}", "", tables.figures(drawn, name), (picture,))
    picture = _picture(kind, "P6", words.P6, plots.split(drawn, kind))
    yield Section(f"{title}: P6, share and queue per expert", "", tables.split(drawn), (picture,))


def _picture(kind: str, number: str, caption: str, png: bytes) -> Picture:
    label = f"{plots.SIMULATED}: " if kind == "simulated" else ""
    return Picture(f"{number.lower()}-{kind}.png", f"{number}, {KINDS[kind]}", f"{number}. {label}{caption}", png)


def _sources(series: Sequence[Series]) -> Iterator[Section]:
    used = dict.fromkeys(engine.profile for each in series for engine in each.configuration.engines if engine.profile)
    rows = []
    for name in used:
        profile = load(name)
        reach = "derived by arithmetic" if profile.kind == "derived" else f"{len(profile.points)} published points"
        rows.append((profile.title, reach, profile.sources[0].title))
    if rows:
        yield Section(
            "Where the simulated figures come from", words.SOURCES, (("profile", "held to", "source"), rows), ()
        )


def _of(series: Sequence[Series], kind: str) -> list[Series]:
    return [each for each in series if each.configuration.kind == kind]
