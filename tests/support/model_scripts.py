"""The scripts in models/, which are no package: imported as their command lines import each other."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

MODELS = Path(__file__).parents[2] / "models"


def script(name: str) -> ModuleType:
    """Import one of the scripts."""
    if str(MODELS) not in sys.path:
        sys.path.append(str(MODELS))
    return importlib.import_module(name)
