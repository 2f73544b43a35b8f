"""What the documents name is there: verbs, files, commands."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / name
    for name in (
        *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"),
        *(
            "docs/routing.md",
            "docs/tracing.md",
            "docs/metrics.md",
            "docs/security.md",
            "docs/overload.md",
            "SECURITY.md",
        ),
    )
    if (ROOT / name).exists()
]
MADE_HERE = ("models/base", ".venv")  # by the verbs, so not in a fresh clone
FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
IN_BACKTICKS = re.compile(r"`([^`\n]+)`")
MODULE = re.compile(r"python -m ([A-Za-z_][\w.]*)")


def verbs() -> dict[str, str]:
    """The Makefile's targets for people, with what they say of themselves."""
    found = re.findall(r"^([a-z]+):[^\n]*?## (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    return dict(found)


def commands(document: Path) -> list[str]:
    """All that stands in fenced blocks and between backticks, line by line."""
    text = document.read_text(encoding="utf-8")
    fenced = [line for block in FENCED.findall(text) for line in block.splitlines()]
    return fenced + IN_BACKTICKS.findall(FENCED.sub("", text))


def is_path(words: str) -> bool:
    """Whether words between backticks look like a path in the repository."""
    if not re.fullmatch(r"\.?[\w-][\w./-]*", words) or words.startswith("/"):
        return False
    top, slash, _ = words.partition("/")
    is_file = bool(re.search(r"\.(lock|md|proto|py|toml|yaml)$", words))
    return is_file or bool(slash and (ROOT / top).is_dir())  # `engine.prefill` and `gen/go` are no paths of ours


def is_module(name: str) -> bool:
    return any(
        (ROOT / shelf / (name.replace(".", "/") + ending)).exists()
        for shelf in ("", "protos", "client")
        for ending in (".py", "/__main__.py")
    )


def test_help_names_every_verb_with_one_line() -> None:
    help_words = ["make", "--no-print-directory", "help"]
    done = subprocess.run(help_words, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603  # make's
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines] == [["make", verb] for verb in verbs()]
    known = "setup model proto check test demo bench characterise overhead fuzz chaos lock clean help"
    assert set(known.split()) == verbs().keys()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_verbs_that_a_document_names_are_there(document: Path) -> None:
    named = {verb for words in commands(document) for verb in re.findall(r"^\s*make ([a-z]+)", words)}
    assert named <= verbs().keys()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_are_there(document: Path) -> None:
    words = IN_BACKTICKS.findall(FENCED.sub("", document.read_text(encoding="utf-8")))
    paths = {each for each in words if is_path(each) and not each.startswith(MADE_HERE)}
    places = (ROOT, ROOT / "protos/expertmesh/v1", ROOT / "requirements")  # where a bare name may be meant to be
    assert {path for path in paths if not any((place / path).exists() for place in places)} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_modules_that_a_document_runs_are_there(document: Path) -> None:
    ours = {"router_svc", "expert_svc", "mesh_wire", "expertmesh_client", "benchmarks"}
    named = {name for words in commands(document) for name in MODULE.findall(words) if name.partition(".")[0] in ours}
    assert {name for name in named if not is_module(name)} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_repository_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target}
    assert {target for target in targets if target and not (document.parent / target).exists()} == set()


def test_verbs_run_modules_that_are_there() -> None:
    named = set(re.findall(r"\$\(PY\) -m ([\w.]+)", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert {name for name in named - {"pytest", "grpc_tools.protoc"} if not is_module(name)} == set()
