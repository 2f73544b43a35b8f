"""The network that chaos runs in: its faults, and that nothing of it stays."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.chaos.disk import SIZE_KB, disk
from benchmarks.chaos.network import NAMES, PREFIX, CannotRun, Network, clear_leftovers, network, run_command, traces_of

TAG = f"{PREFIX}{os.getpid()}"
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3]))"


@pytest.fixture
def two() -> Iterator[Network]:
    try:
        with network(["one", "two"]) as made:
            yield made
    except CannotRun as error:
        pytest.skip(f"no namespaces here: {error}")


def reaches(made: Network, node: str, listener: socket.socket, within_s: float) -> bool:
    """Whether a connection from within a namespace comes about."""
    host, port = listener.getsockname()
    words = made.inside(node, sys.executable, "-c", CONNECT, host, str(port), str(within_s))
    return subprocess.run(words, capture_output=True, check=False).returncode == 0  # noqa: S603 - our own


def bridge(made: Network) -> str:
    return made.addresses["one"].rpartition(".")[0] + ".1"


@pytest.mark.parametrize(("coming", "going"), [(1, 1), (1, 0), (0, 1)], ids=["swallowed", "deaf", "mute"])
def test_a_link_that_is_cut_is_whole_again_when_it_is_healed(two: Network, coming: float, going: float) -> None:
    with socket.create_server((bridge(two), 0)) as listener:
        assert reaches(two, "one", listener, 30)
        two.swallow("one", coming=coming, going=going)
        assert not reaches(two, "one", listener, 0.5)
        assert reaches(two, "two", listener, 30)
        two.heal("one")
        assert reaches(two, "one", listener, 30)


def test_a_link_that_lags_carries_what_it_should(two: Network) -> None:
    two.lag("one", 0.1)
    with socket.create_server((bridge(two), 0)) as listener:
        assert reaches(two, "one", listener, 30)


def test_names_change_for_those_who_run_already(two: Network) -> None:
    two.name("one", {"some.mesh": ["10.9.9.1"]})
    look = "import socket\nfor _ in range(2):\n  print(socket.gethostbyname('some.mesh'), flush=True)\n  input()"
    words = two.inside("one", sys.executable, "-c", look)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as looking:  # noqa: S603
        assert looking.stdin is not None
        assert looking.stdout is not None
        assert looking.stdout.readline().strip() == "10.9.9.1"
        two.name("one", {"some.mesh": ["10.9.9.2"]})
        looking.stdin.write("\n")
        looking.stdin.flush()
        assert looking.stdout.readline().strip() == "10.9.9.2"
        looking.stdin.write("\n")


def test_a_disk_is_full_to_its_last_byte_and_can_be_emptied(two: Network, tmp_path: Path) -> None:
    with disk(tmp_path / "disk") as small:
        small.fill()
        with pytest.raises(OSError, match="No space"):
            (small.folder / "more").write_bytes(bytes(10_000))
        small.empty()
        (small.folder / "more").write_bytes(bytes(SIZE_KB * 512))


def test_what_a_run_left_that_was_killed_is_removed(two: Network) -> None:
    gone = f"{PREFIX}4999999"  # above any process id of Linux
    run_command("ip", "netns", "add", f"{gone}-one")
    (NAMES / f"{gone}-one").mkdir(parents=True)
    clear_leftovers()
    assert traces_of(gone) == []
    assert traces_of(TAG)  # ours lives


def test_nothing_is_left_of_a_network_that_is_over() -> None:
    try:
        with network(["one"]) as made:
            made.name("one", {})
            words = made.inside("one", sys.executable, "-c", "print(flush=True); input()")
            process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - our own
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n", "it has arrived there"
    except CannotRun as error:
        pytest.skip(f"no namespaces here: {error}")
    with process:
        assert process.wait(30) != 0
    assert traces_of(TAG) == []
