"""Faults done and undone, on a running mesh; all of it blocking and short."""

import signal

from benchmarks.chaos.mesh import ChaosMesh
from benchmarks.chaos.plan import Fault


class Breaker:
    """Carries faults out. What names lead to is put together from all faults on them."""

    def __init__(self, mesh: ChaosMesh) -> None:
        self._mesh = mesh

    def begin(self, fault: Fault) -> None:
        network, node = self._mesh.network, fault.node
        match fault.kind:
            case "kill":
                self._mesh.kept[node].send(signal.SIGKILL)
            case "term":
                self._mesh.kept[node].send(signal.SIGTERM)
            case "stop":
                self._mesh.kept[node].send(signal.SIGSTOP)
            case "swallow":
                network.swallow(node, coming=1, going=1)
            case "one-way-in":
                network.swallow(node, coming=1, going=0)
            case "one-way-out":
                network.swallow(node, coming=0, going=1)
            case "lose":
                network.swallow(node, coming=fault.amount, going=fault.amount)
            case "lag":
                network.lag(node, fault.amount)
            case "reorder":
                network.reorder(node, fault.amount)
            case "dns-fewer":
                self._mesh.name_all(without=[node])
            case "dns-gone":
                self._mesh.name_all(nothing=True)
            case "dns-stranger":
                self._mesh.name_all(strangers=True)
            case "disk-full":
                self._mesh.disk.fill()

    def end(self, fault: Fault) -> None:
        match fault.kind:
            case "kill" | "term":
                pass
            case "stop":
                self._mesh.kept[fault.node].send(signal.SIGCONT)
            case "dns-fewer" | "dns-gone" | "dns-stranger":
                self._mesh.name_all()
            case "disk-full":
                self._mesh.disk.empty()
            case _:
                self._mesh.network.heal(fault.node)
