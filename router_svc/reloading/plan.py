"""What of the mesh file can change while a router serves: pure functions over two readings of the file."""

from collections.abc import Iterable

from mesh_wire.settings import Mesh, RouterSection
from router_svc.choosing.decision import Policy

LIVE = (  # fields of `router` that a reload takes
    "targets",
    "strategy",
    "artefact",
    "classify_budget_ms",
    "examples",
    "pinned",
    "seed",
    "generalist",
    "threshold",
    "spill_ms_per_point",
    "quality_floor",
    "sibling_ms",
    "affinity_ms",
    "load_stale_s",
)


def refusals(started: Mesh, new: Mesh) -> list[str]:
    """Return why a reading is not taken although it is valid, a reason each.

    How experts are greeted belongs together with where they are: half of such a change would cut them off.
    """
    changed = []
    if started.router.expert_tls != new.router.expert_tls:
        changed.append("router.expert_tls")
    if started.tickets != new.tickets:
        changed.append("tickets")
    return [f"{name} cannot change while the router serves: start it again" for name in changed]


def left_for_restart(started: Mesh, new: Mesh) -> list[str]:
    """Return the fields that differ from those at the start and that only a restart takes."""
    fixed = sorted(set(RouterSection.model_fields) - {*LIVE, "expert_tls"})
    changed = [f"router.{name}" for name in fixed if getattr(started.router, name) != getattr(new.router, name)]
    # Who may call is asked anew with each connection and each token, and yet by the rules of the start.
    return changed + [name for name in ("callers", "peers") if getattr(started, name) != getattr(new, name)]


def merged(serving: Mesh, new: Mesh) -> Mesh:
    """Return what is to be served: a new reading, but for what cannot change."""
    taken = {name: getattr(new.router, name) for name in LIVE}
    return serving.model_copy(
        update={"router": serving.router.model_copy(update=taken), "experts": new.experts},
    )


def strategy_of(mesh: Mesh) -> tuple[object, ...]:
    """Return what a strategy is opened by, its artefact's content apart."""
    section = mesh.router
    return section.strategy, section.artefact, section.pinned, section.seed, section.examples


def policy_of(section: RouterSection) -> Policy:
    """Return what a router's section says of decisions."""
    return Policy(
        generalist=section.generalist,
        threshold=section.threshold,
        spill_ms_per_point=section.spill_ms_per_point,
        quality_floor=section.quality_floor,
        sibling_ms=section.sibling_ms,
        affinity_ms=section.affinity_ms,
        stale_after_s=section.load_stale_s,
    )


def experts_of(mesh: Mesh, found: Iterable[str]) -> list[str]:
    """Return what the controls choose among: the experts that the file names, or, where it has targets alone, those
    found behind them."""
    named = [name for expert in mesh.experts for name in expert.serves]
    pinned = [mesh.router.pinned] if mesh.router.pinned else []
    return list(dict.fromkeys([*(named or sorted(found) or [mesh.router.generalist]), *pinned]))
