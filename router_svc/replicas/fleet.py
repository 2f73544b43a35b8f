"""The replicas that the router knows: found by address or DNS name, each watched by a task of its own."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager

from mesh_wire.auth.doors import Doors
from mesh_wire.open_session import Headers
from mesh_wire.tickets import TicketOffice
from mesh_wire.tls import ClientTls
from router_svc.choosing.roster import Roster
from router_svc.replicas.replica import Replica

log = logging.getLogger(__name__)

DNS = "dns:///"
REPORTS_PER_S = 200.0  # load reports of all replicas together; each costs more than a decision does
SELDOM_S = 1.0  # between two reports of one replica, however many there are
LOOK_UP_EVERY_S = 5.0  # DNS has no way to tell of a change


class Fleet:
    """All replicas, by endpoint."""

    def __init__(
        self,
        tls: ClientTls | None = None,
        office: TicketOffice | None = None,
        headers: Headers = (),
    ) -> None:
        self._headers = headers
        self._office = office
        self._tls = tls
        self._replicas: dict[str, Replica] = {}
        self._roster = Roster()
        self._targets: set[str] = set()
        self._changed: set[Replica] = set()  # since the roster was looked at
        self._found: dict[str, frozenset[str]] = {}  # target -> its endpoints
        self._unresolved: dict[str, str] = {}  # DNS targets without an address, with the reason
        self._tasks: dict[str, asyncio.Task[None]] = {}  # a watch per endpoint, a look-up per DNS target
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def replicas(self) -> Collection[Replica]:
        return self._replicas.values()

    @property
    def roster(self) -> Roster:
        """The fleet as selection sees it: always the same object, brought up to date by being looked at."""
        while self._changed:
            replica = self._changed.pop()
            if self._replicas.get(replica.endpoint) is replica:  # else: it has left, and may have a follower
                self._roster.put(replica.candidate)
        return self._roster

    @property
    def unreachable(self) -> dict[str, str]:
        """Addresses that never answered, with the reason."""
        silent = {each.endpoint: each.trouble for each in list(self.replicas) if not each.description.replica}
        return {**self._unresolved, **silent}

    @property
    def experts(self) -> set[str]:
        """The experts that any replica has said it serves."""
        return {expert.name for replica in self.replicas for expert in replica.description.experts}

    def replica(self, endpoint: str) -> Replica:
        return self._replicas[endpoint]

    async def looked(self) -> None:
        """Wait until every replica known so far has been tried."""
        await asyncio.gather(*(replica.looked.wait() for replica in self.replicas))

    @property
    def targets(self) -> frozenset[str]:
        """Where replicas are looked for."""
        return frozenset(self._targets)

    async def add(self, target: str) -> None:
        """Look for replicas behind a target from now on."""
        self._targets.add(target)
        if not target.startswith(DNS):
            self.found(target, [target])
            return
        await self.look_up(target)
        if target in self._targets and target not in self._tasks:  # it may have been removed meanwhile
            self._tasks[target] = asyncio.create_task(self.keep_looking_up(target), name=f"look up {target}")

    def remove(self, target: str) -> None:
        """Look there no longer: replicas that no other target has leave."""
        self._targets.discard(target)
        if target.startswith(DNS) and (looking := self._tasks.pop(target, None)) is not None:
            looking.cancel()
            self._leaving.add(looking)
            looking.add_done_callback(self._leaving.discard)
        self._unresolved.pop(target, None)
        self.found(target, ())
        del self._found[target]

    def found(self, target: str, endpoints: Iterable[str]) -> None:
        """Take note of what stands behind a target: new replicas join, those that are gone leave."""
        self._found[target] = frozenset(endpoints)
        wanted = frozenset[str]().union(*self._found.values())
        for endpoint in sorted(wanted - self._replicas.keys()):
            doors = Doors(endpoint, self._tls)
            replica = Replica(
                endpoint,
                doors.open(),
                self._office,
                self._changed.add,
                self._pause_s,
                headers=self._headers,
                reopened=doors.reopened,
                peers=lambda: self.replicas,
            )
            self._replicas[endpoint] = replica
            self._changed.add(replica)
            self._tasks[endpoint] = asyncio.create_task(replica.watch(), name=f"watch {endpoint}")
        for endpoint in sorted(self._replicas.keys() - wanted):
            log.info("%s has left %s", endpoint, target)
            self._roster.drop(endpoint)
            leaving = asyncio.create_task(_leave(self._replicas.pop(endpoint), self._tasks.pop(endpoint)))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    def _pause_s(self) -> float:
        """Return the shortest time between two load reports of one replica, so that all together do not flood us.

        Between reports the router's own requests are counted, and two choices spread what it does not know.
        """
        return min(SELDOM_S, len(self._replicas) / REPORTS_PER_S)

    async def look_up(self, target: str) -> None:
        """Look up a DNS target once. A name that does not resolve keeps the replicas that it had."""
        host, _, port = target.removeprefix(DNS).rpartition(":")
        try:
            answers = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # UnicodeError: no possible name, such as one with two dots in a row
            self._unresolved[target] = getattr(error, "strerror", None) or str(error)
            return
        self._unresolved.pop(target, None)
        addresses = {str(place[0]) for *_, place in answers}
        self.found(target, (f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in addresses))

    async def keep_looking_up(self, target: str) -> None:
        while True:
            await asyncio.sleep(LOOK_UP_EVERY_S)
            await self.look_up(target)

    async def close(self) -> None:
        """End every watch, and with it what is under way."""
        tasks = [*self._tasks.values(), *self._leaving]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _leave(replica: Replica, watch: asyncio.Task[None]) -> None:
    """Let a replica go: no new requests reach it, and it is closed once those under way have ended."""
    try:
        await replica.idle.wait()
    finally:
        watch.cancel()
        await asyncio.wait((watch,))


@asynccontextmanager
async def open_fleet(
    targets: Iterable[str],
    tls: ClientTls | None = None,
    office: TicketOffice | None = None,
    headers: Headers = (),
) -> AsyncIterator[Fleet]:
    """Know and watch the replicas behind `targets` for as long as the block runs.

    Args:
        targets: `host:port` for one replica, `dns:///name:port` for all behind a name, looked up again and again.
        office: gives the tickets with which replicas are asked; None: they are asked without.
        headers: say who asks, in every call.
    """
    fleet = Fleet(tls, office, headers)
    try:
        for target in targets:
            await fleet.add(target)
        yield fleet
    finally:
        await fleet.close()
