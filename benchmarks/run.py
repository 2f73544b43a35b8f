"""`python -m benchmarks.run` (`make bench`): the data plane, and which other measurements there are.

Options are those of `benchmarks.data_plane`, such as `--quick`. `--list` only lists.
"""

import ast
import sys
from pathlib import Path

from benchmarks.data_plane.__main__ import command

HERE = Path(__file__).parent
DEFAULT = "data_plane"


def scripts() -> dict[str, str]:
    """Return the measurements by name, with the first line that each says of itself."""
    files = {file.stem: file for file in HERE.glob("*.py")} | {
        file.parent.name: file for file in HERE.glob("*/__main__.py")
    }
    said: dict[str, str] = {}
    for name, file in sorted(files.items()):
        source = file.read_text(encoding="utf-8")
        if name != "run" and "__main__" in source:
            said[name] = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].replace("\n", " ")
    return said


def main() -> None:
    """Run the default measurement, or list all."""
    import typer

    others = [f"  python -m benchmarks.{name}\n      {words}" for name, words in scripts().items() if name != DEFAULT]
    if "--list" in sys.argv[1:]:
        print(f"  python -m benchmarks.{DEFAULT}\n      {scripts()[DEFAULT]}", *others, sep="\n")
        return
    print("other measurements:", *others, "", sep="\n", file=sys.stderr, flush=True)
    typer.run(command)


if __name__ == "__main__":
    main()
