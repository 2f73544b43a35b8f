"""The report of a characterisation: what stands on it, and how a browser shows it."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.characterise.configurations import real, simulated
from benchmarks.characterise.report import DATA, PAGE, build
from benchmarks.characterise.rows import Row, Series, series_of
from support.browser import assert_readable, browser, needs_chromium
from support.characterisation import row

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs/characterisation"
PICTURES_OF_A_KIND = 6  # P1 to P6
WIDTHS = (1280, 390)


def all_rows() -> list[Row]:
    """A row for every rung of every configuration, and the direct ones where they are measured."""
    return [
        row(each.key, users, way=way, late="late" if users == 10 else "")
        for each in (*simulated(5000), *real())
        for users in each.ladder
        for way in (("routed", "direct") if each.direct else ("routed",))
    ]


def made(folder: Path, series: list[Series], *, missing: list[str] | None = None, failed: str = "") -> str:
    """Build a report and return its page."""
    why = {failed: "why"} if failed else {}
    path = build(folder, series, command="make characterise", missing=missing or [], failed=why)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def series() -> list[Series]:
    return series_of((*simulated(5000), *real()), all_rows())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, series: list[Series]) -> Path:
    """A folder with the report of all of them; drawing takes seconds."""
    folder = tmp_path_factory.mktemp("whole")
    made(folder, series)
    return folder


def test_every_simulated_picture_says_so_and_every_finding_stands_with_its_figure(whole: Path) -> None:
    text = (whole / PAGE).read_text(encoding="utf-8")

    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert len(captions) == 2 * PICTURES_OF_A_KIND
    assert [caption[:2] for caption in captions] == ["P1", "P2", "P3", "P4", "P5", "P6"] * 2
    assert all("simulated H100" in caption for caption in captions[:PICTURES_OF_A_KIND])
    assert not any("simulated" in caption for caption in captions[PICTURES_OF_A_KIND:])
    for kind in ("Simulated H100", "Real: vLLM on this machine&#x27;s CPU"):
        for letter in "ABCDE":
            assert re.search(rf"<h2>{re.escape(kind)}: finding {letter}, (not )?(supported|testable here)</h2>", text)
    assert len(re.findall(r"See P\d", text)) == 2 * 5
    assert len(text) < 3_000_000


def test_the_data_beside_it_has_every_row(whole: Path) -> None:
    told = json.loads((whole / DATA).read_text(encoding="utf-8"))
    assert told["complete"]
    assert sum(len(each["rows"]) for each in told["configurations"]) == len(all_rows())
    assert {each["letter"] for each in told["findings"]} == set("ABCDE")
    assert str(ROOT) not in json.dumps(told)


def test_what_is_missing_or_failed_is_said_on_the_page_and_in_the_data(tmp_path: Path, series: list[Series]) -> None:
    text = made(tmp_path, series[:2], missing=["one 70B 16-bit, TP 8"], failed="cpu-tp3")

    assert "INCOMPLETE: 1 loads" in text
    assert "Could not be measured: cpu-tp3: why." in text
    assert not json.loads((tmp_path / DATA).read_text(encoding="utf-8"))["complete"]


@needs_chromium
async def test_a_browser_shows_the_whole_report_on_a_desk_and_on_a_telephone(tmp_path: Path, whole: Path) -> None:
    async with browser(tmp_path / "profile") as chromium:
        for width in WIDTHS:
            seen = await chromium.look((whole / PAGE).as_uri(), width)
            assert seen.inner_width == width
            assert_readable(seen, 2 * PICTURES_OF_A_KIND)


@needs_chromium
async def test_the_committed_report_is_readable_as_well(tmp_path: Path) -> None:
    async with browser(tmp_path / "profile") as chromium:
        for width in WIDTHS:
            seen = await chromium.look((COMMITTED / PAGE).as_uri(), width)
            assert_readable(seen, len(seen.images))
            assert len(seen.images) >= PICTURES_OF_A_KIND


@needs_chromium
async def test_a_page_that_is_not_readable_is_found_out(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<p style='width:2000px'>wide</p><p style='font-size:6px'>small</p>"
        "<img alt='gone' src='data:image/png;base64,AA=='><script>console.error('no'); undefined_name();</script>"
    )

    async with browser(tmp_path / "profile") as chromium:
        seen = await chromium.look(page.as_uri(), 390)

    assert seen.small == ["small"]
    assert any("wide" in each for each in seen.wide)
    assert seen.scroll_width > seen.inner_width
    assert len(seen.errors) >= 2
    assert seen.images[0]["pixels"] == 0
    with pytest.raises(AssertionError):
        assert_readable(seen, 1)
