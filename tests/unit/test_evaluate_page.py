"""What `--plots` writes: one page that needs nothing else, and the pictures in it."""

import json
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from router_svc.evaluate import app
from router_svc.evaluation.page import Section, page
from router_svc.strategies.artefact import save
from support.corpora import corpus, small_artefact, small_lexical, write_corpus
from support.tiny_encoder import tiny_encoder

PNG = b"\x89PNG\r\n\x1a\n"
VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Reads a page, and fails where a tag is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def artefacts(tmp_path: Path) -> Path:
    save(tmp_path / "artefacts/clusters", small_artefact())
    save(tmp_path / "artefacts/lexical", small_lexical())
    save(tmp_path / "artefacts/encoder", tiny_encoder())
    return tmp_path / "artefacts"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "prompts.jsonl", corpus(50, seed=4))


def test_the_page_holds_every_picture_and_refers_to_nothing_outside(
    artefacts: Path, prompts: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "new/plots"

    result = run(
        "--prompts",
        prompts,
        "--artefacts",
        artefacts,
        "--compare",
        "clusters,lexical,encoder,random",
        "--plots",
        folder,
    )

    assert result.exit_code == 0, result.output
    found = read((folder / "report.html").read_text(encoding="utf-8"))
    sources = [image["src"] or "" for image in found.all("img")]
    inlined = [b64decode(source.removeprefix("data:image/png;base64,"), validate=True) for source in sources]
    assert sorted(inlined) == sorted(path.read_bytes() for path in folder.glob("*.png"))
    assert all(data.startswith(PNG) for data in inlined)
    assert all(image["alt"] for image in found.all("img"))
    assert {path.stem for path in folder.glob("*.png")} == {
        "cost",
        *(
            f"{kind}-{name}"
            for name in ("clusters", "lexical", "encoder", "random")
            for kind in ("confusion", "balance")
        ),
        *(
            f"{kind}-{name}"
            for name in ("clusters", "lexical", "encoder")
            for kind in ("confusion-domains", "reliability", "map")
        ),
    }
    assert not {tag for tag, _ in found.seen} & {"script", "link", "iframe", "a", "base", "object"}
    assert not [attributes for _, attributes in found.seen if "href" in attributes or "srcset" in attributes]
    assert "url(" not in found.text
    assert "@import" not in found.text


def test_one_strategy_is_drawn_in_full_beside_the_cost_of_all(artefacts: Path, prompts: Path, tmp_path: Path) -> None:
    named = ["--prompts", prompts, "--artefacts", artefacts, "--strategy", "clusters"]
    result = run(*named, "--plots", tmp_path / "plots", "--json")

    assert result.exit_code == 0, result.output
    said: dict[str, Any] = json.loads(result.stdout)
    assert said["strategy"] == "clusters"
    assert said["page"] == str(tmp_path / "plots/report.html")
    compared = [row["strategy"] for row in said["compared"]]
    assert compared == ["lexical", "encoder", "clusters", "pinned", "random", "round_robin"]
    left_out = result.stderr.splitlines()
    assert len(left_out) == 2
    assert left_out[0].startswith(f"left out cascade: {artefacts}/cascade/manifest.json: cannot be read")
    assert left_out[1].startswith("left out few_shot: strategy few_shot needs examples")
    assert {path.stem for path in (tmp_path / "plots").glob("*.png")} == {
        "cost",
        *(f"{kind}-clusters" for kind in ("confusion", "confusion-domains", "reliability", "balance", "map")),
    }


def test_the_learning_curve_is_drawn_and_told(artefacts: Path, prompts: Path, tmp_path: Path) -> None:
    grown = write_corpus(tmp_path / "grown.jsonl", corpus(640, seed=9))
    arguments: list[str | Path] = [
        "--prompts",
        prompts,
        "--artefacts",
        artefacts,
        "--compare",
        "lexical",
        "--learning-curve",
        grown,
    ]

    result = run(*arguments, "--plots", tmp_path / "plots", "--target", "0.95", "--json")

    assert result.exit_code == 0, result.output
    points = json.loads(result.stdout)["learning_curve"]
    assert [point["fitted_on"] for point in points] == [20, 40, 80, 160, 320, 640]
    assert points[-1]["domain_accuracy"] > 0.95
    assert all(point["accuracy_low"] <= point["accuracy"] <= point["accuracy_high"] for point in points)
    found = read((tmp_path / "plots/report.html").read_text(encoding="utf-8"))
    assert "The last doubling brought" in found.text

    shown = run(*arguments)

    assert "lexical by training size" in shown.stdout


def test_one_prompt_can_be_drawn(artefacts: Path, tmp_path: Path) -> None:
    alone = write_corpus(tmp_path / "alone.jsonl", corpus(1))

    result = run(
        "--prompts", alone, "--artefacts", artefacts, "--compare", "clusters,lexical", "--plots", tmp_path / "plots"
    )

    assert result.exit_code == 0, result.output


def test_an_expert_s_name_is_never_markup_nor_mathematics(prompts: Path, tmp_path: Path) -> None:
    odd = "<b>$\\frac$[red]"

    result = run(
        "--prompts", prompts, "--artefacts", tmp_path, "--compare", "pinned", "--plots", tmp_path / "plots",
        "--serve", f"{odd},math", "--generalist", odd,
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    found = read((tmp_path / "plots/report.html").read_text(encoding="utf-8"))
    assert odd in found.text
    assert not found.all("b")


def test_a_folder_that_cannot_be_written_is_named_in_one_line(artefacts: Path, prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    for folder in (tmp_path / "file", tmp_path / "file/below", Path("/proc/plots")):
        result = run("--prompts", prompts, "--artefacts", artefacts, "--compare", "clusters", "--plots", folder)

        assert result.exit_code == 2
        assert result.stderr.startswith(f"{folder}: cannot be written: ")
        assert result.stderr.count("\n") == 1


def test_all_text_of_a_page_is_escaped() -> None:
    odd = '<script>"&'

    found = read(page(odd, odd, [Section(odd, odd, ([odd], [[odd]]), ())]))

    assert found.text.count(odd) == 7  # the title is also the heading
    assert not found.all("script")
