"""Has traffic left what an artefact was fitted on? Told from who scored best, and by how much; no text is kept.

Source:
    The population stability index, and 0.1 and 0.25 as its bounds: Siddiqi 2006, Credit Risk Scorecards. It is the
    Jeffreys divergence of two histograms.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_svc.strategies.artefact import Json
from router_svc.strategies.cascade import margins

TRAFFIC = "traffic"  # where an artefact's provenance keeps what `fitted` returns
BINS = 10  # of margins, each a tenth wide
LEAST = 200  # prompts that a comparison needs
MOVED, LEFT = 0.1, 0.25  # indices from which traffic has moved somewhat, and has left
MOST = 1e12  # prompts that an artefact can have been fitted on
TELLING = 0.05  # a share that differs by less is not named


@dataclass(frozen=True, slots=True)
class Profile:
    """Some prompts, as a strategy sees them."""

    experts: Mapping[str, float]  # share of prompts for which each expert scored best; adds up to 1
    margins: Sequence[float]  # share of prompts with a margin in each bin; empty: not known
    prompts: float


@dataclass(frozen=True, slots=True)
class Compared:
    """How traffic compares with a corpus."""

    verdict: str  # in words
    index: float | None  # 0 or more; None: not known
    prompts: float


def fitted(scores: NDArray[np.float32], experts: Sequence[str]) -> Json:
    """Return what an artefact says of the corpus that it was fitted on.

    Args:
        scores: of prompts that the strategy did not see, if there are any, else of the corpus itself; shape
            (prompts, experts).
    """
    best = np.bincount(scores.argmax(axis=1), minlength=len(experts)) / max(1, len(scores))
    bins = np.bincount([bin_of(margin) for margin in margins(scores).tolist()], minlength=BINS) / max(1, len(scores))
    return {
        "experts": {expert: round(float(share), 6) for expert, share in zip(experts, best, strict=True)},
        "margins": [round(float(share), 6) for share in bins],
        "prompts": len(scores),
    }


def profile_of(provenance: Json) -> Profile | None:
    """Return what an artefact says of its corpus; None where that is nothing that can be read.

    An artefact without a word on its scores may count its corpus's labels: then the margins are not known.
    """
    said: Any = provenance.get(TRAFFIC)
    if not isinstance(said, dict):
        said = {"experts": provenance.get("labels"), "margins": [], "prompts": provenance.get("prompts")}
    experts, bins, prompts = said.get("experts"), said.get("margins"), said.get("prompts")
    if not isinstance(experts, dict) or not isinstance(bins, list) or not _is_amount(prompts):
        return None
    if len(bins) not in (0, BINS) or not all(_is_amount(share) for share in (*experts.values(), *bins)):
        return None
    in_all = math.fsum(experts.values())
    if not in_all or (bins and not any(bins)):
        return None
    return Profile(
        {expert: share / in_all for expert, share in experts.items()},
        [share / math.fsum(bins) for share in bins],
        prompts,
    )


def compared(traffic: Profile, corpus: Profile | None) -> Compared:
    """Say how far traffic is from a corpus."""
    if corpus is None:
        return Compared("not known: the artefact does not say what it was fitted on", None, traffic.prompts)
    if traffic.prompts < LEAST:
        return Compared(f"not known yet, from {traffic.prompts:.0f} prompts", None, traffic.prompts)
    names = sorted({*traffic.experts, *corpus.experts})
    now, then = ([profile.experts.get(name, 0.0) for name in names] for profile in (traffic, corpus))
    index = stability(now, then, traffic.prompts, corpus.prompts)
    if corpus.margins:
        index = max(index, stability(traffic.margins, corpus.margins, traffic.prompts, corpus.prompts))
    if index < MOVED:
        return Compared("like the fitting data", index, traffic.prompts)
    what = "has left what the artefact was fitted on" if index >= LEFT else "has moved from the fitting data"
    return Compared(": ".join(filter(None, (what, ", ".join(_differences(traffic, corpus))))), index, traffic.prompts)


def stability(one: Sequence[float], other: Sequence[float], prompts_1: float, prompts_2: float) -> float:
    """Return the population stability index of two histograms, 0 where they are equal.

    Args:
        one, other: shares, of equal length, each adding up to 1.
        prompts_1, prompts_2: how many prompts each was made from; half a prompt is added to each bin, so that an empty
            one is not infinitely far from any other.
    """
    p, q = _smoothed(one, prompts_1), _smoothed(other, prompts_2)
    return math.fsum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))


def _smoothed(shares: Sequence[float], prompts: float) -> list[float]:
    return [(share * prompts + 0.5) / (prompts + 0.5 * len(shares)) for share in shares]


def _differences(traffic: Profile, corpus: Profile) -> list[str]:
    """Name the two experts whose shares differ most, and the margin below which the shares do."""
    by_expert = {name: traffic.experts.get(name, 0.0) - share for name, share in corpus.experts.items()}
    by_expert |= {name: share for name, share in traffic.experts.items() if name not in corpus.experts}
    most = sorted(by_expert, key=lambda name: (-abs(by_expert[name]), name))[:2]
    told = [
        _told(name, traffic.experts.get(name, 0.0), corpus.experts.get(name, 0.0))
        for name in most
        if abs(by_expert[name]) >= TELLING
    ]
    if corpus.margins:
        below = list(zip(accumulate(traffic.margins), accumulate(corpus.margins), strict=True))[:-1]
        at = max(range(len(below)), key=lambda bin_: abs(below[bin_][0] - below[bin_][1]))
        if abs(below[at][0] - below[at][1]) >= TELLING:
            told.append(_told(f"margins below {(at + 1) / BINS:g}", *below[at]))
    return told


def _told(what: str, now: float, then: float) -> str:
    return f"{what} {now * 100:.0f} % instead of {then * 100:.0f} %"


def bin_of(margin: float) -> int:
    """Return which bin a margin in [0, 1] falls in."""
    return min(BINS - 1, max(0, int(margin * BINS)))


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST
