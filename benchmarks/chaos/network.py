"""The mesh's own network: a namespace for each node, joined by a bridge, and faults on their links.

All names carry this process's id, so that what a run left behind that was killed is known, and removed by the next one.
Needs root, `ip`, `tc` and `nft`; reordering needs a kernel that has netem, and lag is crude without it.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "emch"  # of everything; then the process's id
_OURS = re.compile(rf"{PREFIX}(\d+)")
NAMES = Path("/etc/netns")  # where `ip netns exec` finds files to put over those of /etc
LINK = "eth0"
NARROW = "500kbit"  # a link that queues
_RESOLVER = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"  # nobody: a name that is not in the file is unknown


class CannotRun(Exception):
    """This machine has no namespaces for us."""


def run_command(*words: str, told: str | None = None) -> str:
    """Run a command; returns its output.

    Raises:
        CannotRun: it is not there, or fails.
    """
    try:
        done = subprocess.run(words, input=told, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    except OSError as error:
        raise CannotRun(f"{words[0]}: {error.strerror}") from None
    if done.returncode:
        raise CannotRun(f"{' '.join(words)}: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    return done.stdout


def _quietly(*words: str) -> None:
    with suppress(CannotRun):
        run_command(*words)


class Network:
    """The nodes, each with a namespace and an address. Made by `network`.

    Attributes:
        addresses: node -> address.
        netem: whether links can reorder, and lag by a given time.
    """

    def __init__(self, nodes: Sequence[str], tag: str, base: str) -> None:
        self._tag = tag
        self._base = base
        self.addresses = {node: f"{base}.{number}" for number, node in enumerate(nodes, start=2)}
        self.stranger = f"{base}.250"  # where nobody is
        self.netem = False

    def inside(self, node: str, *words: str) -> list[str]:
        """Return the command that runs another one in a node's namespace."""
        return ["ip", "netns", "exec", self._namespace(node), *words]

    def set_up(self) -> None:
        run_command("ip", "link", "add", self._bridge, "type", "bridge")
        run_command("ip", "addr", "add", f"{self._base}.1/24", "dev", self._bridge)
        run_command("ip", "link", "set", self._bridge, "up")
        for number, (node, address) in enumerate(self.addresses.items()):
            space, outer = self._namespace(node), f"{self._tag}v{number}"
            run_command("ip", "netns", "add", space)
            run_command("ip", "link", "add", outer, "type", "veth", "peer", "name", LINK, "netns", space)
            run_command("ip", "link", "set", outer, "master", self._bridge, "up")
            run_command("ip", "-n", space, "addr", "add", f"{address}/24", "dev", LINK)
            run_command("ip", "-n", space, "link", "set", LINK, "up")
            run_command("ip", "-n", space, "link", "set", "lo", "up")
        first = next(iter(self.addresses))
        self.heal(first)  # so that a missing `nft` is told before anything starts
        try:
            self._netem(first, "delay", "1ms")
            self.netem = True
        except CannotRun:
            self.netem = False
        self.heal(first)

    def name(self, node: str, hosts: Mapping[str, Iterable[str]]) -> None:
        """Have names, each with its addresses, known in a node, and no others; processes that run there see it too."""
        folder = NAMES / self._namespace(node)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "resolv.conf").write_text(_RESOLVER)
        lines = ["127.0.0.1 localhost", *(f"{each} {name}" for name, found in hosts.items() for each in found)]
        text = ("\n".join(lines) + "\n").encode()
        # In place, since a mount shows a file and not its name; the padding leaves no moment with half of it.
        with (folder / "hosts").open("r+b" if (folder / "hosts").exists() else "x+b", buffering=0) as file:
            file.write(text.ljust(1024, b"\n"))

    def swallow(self, node: str, *, coming: float, going: float) -> None:
        """Drop a share of a node's packets, each way, without a word."""
        rules = ["flush ruleset", "table inet chaos {"]
        for hook, way, share in (("input", "iifname", coming), ("output", "oifname", going)):
            if share:
                some = "" if share >= 1 else f"numgen random mod 1000 < {max(1, round(1000 * share))} "
                rules.append(f'chain {hook} {{ type filter hook {hook} priority 0; {way} != "lo" {some}drop; }}')
        run_command(*self.inside(node, "nft", "-f", "-"), told="\n".join([*rules, "}"]))

    def lag(self, node: str, seconds: float) -> None:
        """Hold back what a node sends; where the kernel cannot, its link becomes narrow, so that it queues there."""
        if self.netem:
            self._netem(node, "delay", f"{1000 * seconds:.0f}ms", f"{300 * seconds:.0f}ms")
        else:
            narrow = ("tbf", "rate", NARROW, "burst", "3000", "latency", f"{1000 * seconds + 50:.0f}ms")
            self._shape(node, *narrow)

    def reorder(self, node: str, share: float) -> None:
        """Let a share of what a node sends overtake the rest."""
        self._netem(node, "delay", "20ms", "reorder", f"{100 * share:.0f}%", "50%")

    def heal(self, node: str) -> None:
        run_command(*self.inside(node, "nft", "flush", "ruleset"))
        _quietly("tc", "-n", self._namespace(node), "qdisc", "del", "dev", LINK, "root")

    def processes(self) -> set[int]:
        """Return what runs in any of the namespaces."""
        found = (run_command("ip", "netns", "pids", self._namespace(node)) for node in self.addresses)
        return {int(word) for text in found for word in text.split()}

    def _netem(self, node: str, *how: str) -> None:
        self._shape(node, "netem", *how)

    def _shape(self, node: str, *how: str) -> None:
        run_command("tc", "-n", self._namespace(node), "qdisc", "replace", "dev", LINK, "root", *how)

    @property
    def _bridge(self) -> str:
        return f"{self._tag}br"

    def _namespace(self, node: str) -> str:
        return f"{self._tag}-{node}"


@contextmanager
def network(nodes: Sequence[str]) -> Iterator[Network]:
    """Have a network for as long as the block runs; nothing of it is left after that, whatever happened.

    Raises:
        CannotRun: not on this machine.
    """
    if os.geteuid():
        raise CannotRun("network namespaces need root")
    for tool in ("ip", "tc", "nft"):
        if shutil.which(tool) is None:
            raise CannotRun(f"there is no `{tool}`: install iproute2 and nftables")
    clear_leftovers()
    tag = f"{PREFIX}{os.getpid()}"
    made = Network(nodes, tag, f"10.213.{os.getpid() % 256}")
    try:
        made.set_up()
        yield made
    finally:
        remove(tag)


def traces_of(tag: str = PREFIX) -> list[str]:
    """Return what there is of a network, or of any: namespaces, links, files, mounts."""
    spaces = [line.split()[0] for line in run_command("ip", "netns", "list").splitlines()]
    folders = [each.name for each in NAMES.iterdir()] if NAMES.is_dir() else []
    return [each for each in (*spaces, *_links(), *folders, *_mounts(tag)) if tag in each]


def _links() -> list[str]:
    return [line.split()[1].rstrip(":").partition("@")[0] for line in run_command("ip", "-o", "link").splitlines()]


def _mounts(tag: str) -> list[str]:
    mounted = Path("/proc/mounts").read_text().splitlines()
    return [line.split()[1] for line in mounted if f"/{tag}" in line.split()[1] and not line.startswith("nsfs")]


def leftovers() -> set[str]:
    """Return the tags of whose network anything is there, though the process is gone."""
    pids = {int(found) for found in _OURS.findall(" ".join(traces_of()))}
    return {f"{PREFIX}{pid}" for pid in pids if not Path(f"/proc/{pid}").exists()}


def clear_leftovers() -> None:
    for tag in leftovers():
        remove(tag)


def remove(tag: str) -> None:
    """Remove a network, with all that runs in it."""
    spaces = [line.split()[0] for line in run_command("ip", "netns", "list").splitlines() if line.startswith(f"{tag}-")]
    for space in spaces:
        for pid in run_command("ip", "netns", "pids", space).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), 9)
    # Before the namespaces, with which links go at some later time: the next network has the same names.
    for link in _links():
        if link.startswith((f"{tag}v", f"{tag}br")):
            _quietly("ip", "link", "del", link)
    for space in spaces:
        _quietly("ip", "netns", "del", space)
    for place in _mounts(f"{tag}-"):
        _quietly("umount", "-l", place)
        shutil.rmtree(Path(place).parent, ignore_errors=True)
    if NAMES.is_dir():
        for folder in NAMES.glob(f"{tag}-*"):
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            NAMES.rmdir()
