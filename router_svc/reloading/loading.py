"""A new state of the router, read and tried before anybody is served by it; runs in a thread."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mesh_wire import mesh_file
from mesh_wire.mesh_file import Mistakes
from mesh_wire.settings import Mesh, RouterSection
from router_svc.classifying.drift import Profile, profile_of
from router_svc.reloading.plan import left_for_restart, merged, refusals, strategy_of
from router_svc.reloading.source import Source, Stamp, stamp_of
from router_svc.strategies.artefact import ArtefactError, provenance_of
from router_svc.strategies.opening import open_strategy
from router_svc.strategies.strategy import FITTED, Strategy

TRIAL = ("", "7", "How much is 2 + 2?", "def f(x): return x", "数学 🦙 \0 café", "court " * 3000)
SUM_TOLERANCE = 1e-3  # how far from 1 the scores of a prompt may add up


def latest(source: Source, serving: Mesh, env: Mapping[str, str] = os.environ) -> tuple[Mesh, Stamp]:
    """Return what to start with, and the stamp of the file that says it: as the file is now, if it can be used.

    A worker that is started again long after its supervisor must not begin with what is no longer served.
    """
    stamp = stamp_of(source.path)
    if stamp != source.stamp:
        try:
            now = mesh_file.read(source.path, env, router=True, serving=True)
        except Mistakes:  # the first look at the file after the start says what they are
            return serving, source.stamp
        if not refusals(source.mesh, now):
            return merged(serving, now), stamp
    return serving, source.stamp


@dataclass(frozen=True, slots=True)
class Reading:
    """A state that can be served."""

    mesh: Mesh
    strategy: Strategy | None  # None: it is not read from an artefact, or the one that serves stays
    left: list[str]  # changed fields that only a restart takes
    corpus: Profile | None = None  # what the strategy was fitted on; None: nobody knows


class NotTaken(Exception):
    """A state that cannot be served."""

    def __init__(self, problems: list[str], artefact: Path | None) -> None:
        """Args:
        problems: one line each.
        artefact: the folder that was to be read, where the file could be.
        """
        super().__init__("\n".join(problems))
        self.problems = problems
        self.artefact = artefact


def read_again(source: Source, serving: Mesh, strategy: Strategy, env: Mapping[str, str] = os.environ) -> Reading:
    """Read the mesh file and the artefact that it names, and try the strategy on a few prompts.

    Raises:
        NotTaken: anything about them is wrong.
    """
    try:
        found = mesh_file.read(source.path, env, router=True, serving=True)
    except Mistakes as error:
        raise NotTaken(error.lines, serving.router.artefact) from None
    if reasons := refusals(source.mesh, found):
        raise NotTaken([f"{source.path}: {reason}" for reason in reasons], found.router.artefact)
    mesh = merged(serving, found)
    section = mesh.router
    left = left_for_restart(source.mesh, found)
    if section.strategy not in FITTED:
        return Reading(mesh, None, left)
    try:
        opened = open_strategy(
            section.strategy,
            artefact=section.artefact,
            experts=(),
            pinned=section.pinned,
            seed=section.seed,
            examples=section.examples,
        )
        if strategy_of(mesh) == strategy_of(serving) and opened.generation == strategy.generation:
            return Reading(mesh, None, left)
        trial(opened)
        return Reading(mesh, opened, left, corpus_of(section))
    except (ArtefactError, ValueError) as error:
        raise NotTaken(str(error).splitlines(), section.artefact) from None


def corpus_of(section: RouterSection) -> Profile | None:
    """Return what the artefact of a strategy says that it was fitted on; None where it says nothing, or where the
    strategy was not fitted: `few_shot` has another's artefact.

    Raises:
        ArtefactError: the artefact's manifest cannot be used.
    """
    if section.artefact is None or section.strategy not in FITTED:
        return None
    name, provenance = provenance_of(section.artefact)
    return profile_of(provenance) if name == section.strategy else None


def trial(strategy: Strategy) -> None:
    """Score a few prompts of all kinds.

    Raises:
        ArtefactError: a row of scores is no distribution, or there are none at all.
    """
    try:
        rows = strategy.scores(TRIAL)
    except Exception as error:  # the strategy's own, or that of the library which runs it
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ArtefactError(f"strategy {strategy.name} fails on a trial prompt: {what}") from None
    if rows.shape != (len(TRIAL), len(strategy.experts)):
        raise ArtefactError(f"strategy {strategy.name} gives trial prompts scores of shape {rows.shape}")
    sums_to_1 = np.abs(rows.sum(axis=1) - 1) <= SUM_TOLERANCE
    if not np.isfinite(rows).all() or rows.min() < 0 or not sums_to_1.all():
        raise ArtefactError(f"strategy {strategy.name} gives a trial prompt scores that are no probabilities")
