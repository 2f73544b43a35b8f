"""The page that `python -m router_svc.evaluate --plots` writes, as a browser shows it."""

import asyncio
from pathlib import Path

from typer.testing import CliRunner

from router_svc.evaluate import app
from router_svc.strategies.artefact import save
from support.browser import assert_readable, browser, needs_chromium
from support.corpora import corpus, small_artefact, small_lexical, write_corpus


@needs_chromium
async def test_it_is_readable_on_a_desk_and_on_a_telephone(tmp_path: Path) -> None:
    save(tmp_path / "artefacts/clusters", small_artefact())
    save(tmp_path / "artefacts/lexical", small_lexical())
    prompts = write_corpus(tmp_path / "prompts.jsonl", corpus(50, seed=4))
    words = ["--prompts", prompts, "--artefacts", tmp_path / "artefacts", "--compare", "clusters,lexical,random"]
    words += ["--plots", tmp_path / "plots", "--target", "0.9"]

    # In a thread: the command runs an event loop of its own.
    done = await asyncio.to_thread(CliRunner().invoke, app, [str(word) for word in words])

    assert done.exit_code == 0, done.output
    pictures = len(list((tmp_path / "plots").glob("*.png")))
    async with browser(tmp_path / "profile") as chromium:
        for width in (1280, 390):
            seen = await chromium.look((tmp_path / "plots/report.html").as_uri(), width)
            assert seen.inner_width == width
            assert_readable(seen, pictures)
