"""Settings of the whole suite."""

import pytest
from hypothesis import settings

# A loaded machine is no failure: no example has a deadline.
settings.register_profile("mesh", deadline=None)
settings.load_profile("mesh")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first, so that the other process does everything else beside it."""
    items.sort(key=lambda item: item.path.name != "test_vllm_failures.py")
