"""One page that holds a whole verdict: tables and pictures in one HTML file, which needs nothing else."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root { color-scheme: light; --line: #d8dde3; --quiet: #55606b; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1rem; background: #fff; color: #16202a;
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
p { margin: .25rem 0 .75rem; max-width: 70ch; }
.quiet, figcaption { color: var(--quiet); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
caption { text-align: left; color: var(--quiet); padding-bottom: .25rem; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem; }
figure { margin: 0; }
img { display: block; width: 100%; max-width: 40rem; height: auto; }
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG with its words."""

    file: str  # its name in the folder
    alt: str  # for whoever does not see it
    caption: str
    png: bytes


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, and what stands below it."""

    heading: str
    text: str
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None  # head and rows
    pictures: tuple[Picture, ...]


def page(title: str, summary: str, sections: Iterable[Section]) -> str:
    """Return an HTML document with images inlined: no script, no link, readable from 390 pixels up.

    Args:
        title: plain text, as is all text here: it is escaped.
        summary: below the title.
        sections: in order.
    """
    body = "\n".join(_section(section) for section in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="quiet">{escape(summary)}</p>
{body}
</body>
</html>
"""


def _section(section: Section) -> str:
    parts = [f"<section>\n<h2>{escape(section.heading)}</h2>"]
    if section.text:
        parts.append(f"<p>{escape(section.text)}</p>")
    if section.table:
        parts.append(_table(*section.table))
    if section.pictures:
        parts.append(f'<div class="figures">\n{"".join(_figure(each) for each in section.pictures)}</div>')
    return "\n".join([*parts, "</section>"])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="table"><table>\n'
        f"<thead><tr>{cells}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table></div>"
    )


def _figure(picture: Picture) -> str:
    data = b64encode(picture.png).decode()
    return (
        f'<figure><img alt="{escape(picture.alt)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>\n"
    )
