"""Settings of the whole suite."""

import fcntl
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

# A loaded machine is no failure: no example has a deadline.
settings.register_profile("mesh", deadline=None)
settings.load_profile("mesh")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first, so that the other process does everything else beside it."""
    items.sort(key=lambda item: item.path.name != "test_vllm_failures.py")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    """A test that is marked `alone` runs while no other does, in whichever process. No timeout counts the wait."""
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH if item.get_closest_marker("alone") is None else fcntl.LOCK_EX)
        try:
            return (yield)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # said, since a process that was forked meanwhile has it open
