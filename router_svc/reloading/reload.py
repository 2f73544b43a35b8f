"""Another mesh file or artefact, without a restart: watched for, tried, and swapped in at once."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from mesh_wire.settings import Mesh
from mesh_wire.telemetry import Telemetry
from router_svc.choosing.rules import Rulebook
from router_svc.classifying.classification import Classifier
from router_svc.classifying.drift import Profile
from router_svc.reloading.files import Watch
from router_svc.reloading.loading import NotTaken, Reading, read_again
from router_svc.reloading.plan import experts_of, policy_of, strategy_of
from router_svc.reloading.source import Source, Stamps
from router_svc.replicas.fleet import Fleet
from router_svc.strategies.opening import open_strategy
from router_svc.strategies.strategy import CONTROLS, Strategy

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5  # what has changed must then rest for one look: a change is served about a second later
JOIN_S = 5.0  # that new replicas are given to be tried before the swap

TAKEN, REFUSED, UNCHANGED = "taken", "refused", "unchanged"  # what came of a reading


class Reloader:
    """Watches the files of one router process and swaps in what they say.

    A request keeps the strategy and the rules that it began with. While the files cannot be used, what was served
    before goes on, and `problems` says why. Several processes of a router each watch for themselves: for about a
    second some may be a generation ahead of others.
    """

    def __init__(
        self,
        source: Source,
        mesh: Mesh,
        read: Stamps,
        *,
        classifier: Classifier,
        fleet: Fleet,
        rulebook: Rulebook,
        telemetry: Telemetry,
        swapped: Callable[[Profile | None], None] = lambda corpus: None,
    ) -> None:
        """Args:
        source: the file by which the router was started.
        mesh: what is served.
        read: the stamps of what is served, from before it was read.
        swapped: is told when another strategy has been swapped in, and what that was fitted on.
        """
        self.problems: Sequence[str] = ()  # why the files, as they are, are not served; none: they are
        self.left: Sequence[str] = ()  # changed fields that only a restart takes
        self._source = source
        self._mesh = mesh
        self._artefact = mesh.router.artefact  # the folder that is watched
        self._watch = Watch(read)
        self._classifier = classifier
        self._fleet = fleet
        self._rulebook = rulebook
        self._swapped = swapped
        self._reloads = telemetry.instruments.reloads

    async def run(self) -> None:
        """Look for changes for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            # In a thread, as all that touches files here: one that hangs must not hold the requests.
            found = await asyncio.to_thread(self._watch.look, self._source.path, self._artefact)
            if self._watch.due(found):
                await self._reload(found)

    async def _reload(self, found: Stamps) -> None:
        artefact = self._artefact
        try:
            serving, strategy = self._mesh, self._classifier.strategy
            reading = await asyncio.to_thread(read_again, self._source, serving, strategy)
            artefact = reading.mesh.router.artefact
            outcome = await self._take(reading)
            self.problems = ()
        except NotTaken as error:
            artefact = error.artefact
            outcome = self._refuse(error.problems)
        except Exception as error:  # nobody else would hear of it, and the requests must go on
            log.exception("a changed mesh file or artefact could not be read")
            outcome = self._refuse([f"{type(error).__name__}: {error}"])
        if artefact != self._artefact:  # of its files there are no stamps from before: look once more
            self._artefact, found = artefact, {self._source.path: found[self._source.path]}
        self._watch.tried(found, failed=outcome == REFUSED)
        self._reloads.add(1, {"expertmesh.outcome": outcome})

    def _refuse(self, problems: Sequence[str]) -> str:
        if problems != self.problems:
            goes_on = f"generation {self._rulebook.now.generation} goes on"
            log.error("%s: the changed mesh file or artefact is not taken: %s", goes_on, "; ".join(problems))
        self.problems = problems
        return REFUSED

    async def _take(self, reading: Reading) -> str:
        """Serve a reading, at once; what it takes to get ready is done before."""
        mesh, old = reading.mesh, self._mesh
        if reading.left and reading.left != self.left:
            log.warning("only a restart takes what has changed about %s", ", ".join(reading.left))
        self.left = reading.left
        chose_among = experts_of(old, self._fleet.experts)
        await self._join(set(mesh.targets) - self._fleet.targets)
        strategy = reading.strategy or self._control(old, mesh, chose_among)
        if mesh == old and strategy is None:
            if self.problems:
                log.info(
                    "the mesh file and the artefact are again what generation %d is", self._rulebook.now.generation
                )
            return UNCHANGED
        # From here on nothing waits: between two requests, everything is another.
        if strategy is not None or mesh.router.classify_budget_ms != old.router.classify_budget_ms:
            self._classifier.swap(strategy or self._classifier.strategy, budget_s=mesh.router.classify_budget_ms / 1e3)
        if strategy is not None:
            self._swapped(reading.corpus)
        self._rulebook.replace(policy_of(mesh.router))
        for target in self._fleet.targets - set(mesh.targets):
            self._fleet.remove(target)
        self._mesh = mesh
        named = f"{self._classifier.strategy.name} {self._classifier.strategy.generation}"
        log.info("generation %d serves, by strategy %s", self._rulebook.now.generation, named)
        return TAKEN

    async def _join(self, targets: set[str]) -> None:
        """Have new replicas ready when they are needed; those that do not answer are not waited for."""
        for target in sorted(targets):
            await self._fleet.add(target)
        if targets:
            with suppress(TimeoutError):
                async with asyncio.timeout(JOIN_S):
                    await self._fleet.looked()

    def _control(self, old: Mesh, mesh: Mesh, chose_among: list[str]) -> Strategy | None:
        """Return another strategy that has no artefact, if another is wanted."""
        section = mesh.router
        experts = experts_of(mesh, self._fleet.experts)
        if section.strategy not in CONTROLS or (strategy_of(mesh) == strategy_of(old) and experts == chose_among):
            return None
        return open_strategy(section.strategy, artefact=None, experts=experts, pinned=section.pinned, seed=section.seed)
