"""A strategy by its name in `mesh.yaml`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from router_svc.strategies import artefact as artefacts
from router_svc.strategies.artefact import Artefact, ArtefactError
from router_svc.strategies.cascade import Cascade, parts_of, share_of
from router_svc.strategies.clusters import Clusters
from router_svc.strategies.controls import Pinned, Random, RoundRobin
from router_svc.strategies.lexical import Lexical
from router_svc.strategies.strategy import FITTED, STRATEGIES, Strategy


def open_strategy(
    name: str,
    *,
    artefact: Path | None,
    experts: Sequence[str],
    pinned: str | None,
    seed: int,
    examples: Mapping[str, Sequence[str]] | None = None,
) -> Strategy:
    """Open a strategy by name.

    Args:
        name: one of `STRATEGIES`.
        artefact: folder of the fitted artefact; `few_shot` reads the one of `encoder`, the controls none.
        experts: the experts of the fleet; the columns of the controls.
        pinned: the expert that `pinned` always names.
        seed: where `random` starts.
        examples: expert → prompts that it should answer, for `few_shot`.

    Raises:
        ArtefactError: the artefact cannot be used; the message names the file and the problem.
        ValueError: the name is unknown, or the strategy lacks a setting that it needs.
    """
    if name in FITTED:
        if artefact is None:
            raise ValueError(f"strategy {name} needs an artefact: the folder that router_svc.fit wrote")
        return _fitted(name, artefacts.load(artefact), examples or {})
    if name not in STRATEGIES:
        raise ValueError(f"unknown strategy {name!r}; there are {', '.join(STRATEGIES)}")
    if not experts:
        raise ValueError(f"strategy {name} needs at least one expert")
    if name == "random":
        return Random(experts, seed=seed)
    if name == "round_robin":
        return RoundRobin(experts)
    if pinned is None:
        raise ValueError(f"strategy pinned needs the name of an expert: {', '.join(experts)}")
    return Pinned(experts, pinned)


def _fitted(name: str, loaded: Artefact, examples: Mapping[str, Sequence[str]]) -> Strategy:
    if name == "clusters":
        return Clusters(loaded)
    if name == "lexical":
        return Lexical(loaded)
    if name == "cascade":
        return _cascade(loaded)
    # onnxruntime takes a third of a second to import: only whoever uses it pays.
    from router_svc.strategies.encoder import Encoder
    from router_svc.strategies.few_shot import FewShot

    return Encoder(loaded) if name == "encoder" else FewShot(Encoder(loaded), examples)


def _cascade(loaded: Artefact) -> Cascade:
    """Open a cascade with the two artefacts that it names, which must be the very ones."""
    found: dict[str, Strategy] = {}
    for name, (folder, wanted) in parts_of(loaded).items():
        part = artefacts.load(folder)
        if part.id != wanted:
            raise ArtefactError(f"{loaded.source}: was made for {name} {wanted}, but {folder} holds {part.id}")
        found[name] = _fitted(name, part, {})
    margin, weight = share_of(loaded, "margin"), share_of(loaded, "encoder_weight")
    try:
        return Cascade(
            found["lexical"],
            found["encoder"],
            margin=margin,
            weight=weight,
            generation=loaded.id,
            created=loaded.created,
        )
    except ValueError as error:
        raise ArtefactError(f"{loaded.source}: {error}") from None
