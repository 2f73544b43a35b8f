"""Accuracy against training size: would more prompts of the same kind help?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from router_svc.evaluation.verdict import Progress
from router_svc.fitting import judging
from router_svc.fitting.corpus import LabelledPrompt
from router_svc.strategies.lexical import Lexical
from router_svc.strategies.strategy import fold

HALVINGS = 5  # the smallest share is 1/32


@dataclass(frozen=True, slots=True)
class Point:
    """What `lexical` reaches from one share of a corpus. Shares are in [0, 1]; the low and high are of 95 %."""

    fitted_on: int  # prompts
    accuracy: float  # over the experts served
    accuracy_low: float
    accuracy_high: float
    domain_accuracy: float  # over the corpus's own domains
    domain_accuracy_low: float
    domain_accuracy_high: float


def learning_curve(
    corpus: Sequence[LabelledPrompt],
    labelled: Sequence[LabelledPrompt],
    *,
    serve: Sequence[str],
    generalist: str,
    seed: int = 0,
    progress: Progress,
) -> list[Point]:
    """Fit `lexical` on growing shares of a corpus, each holding the one before, and try each on other prompts.

    Calibration is left out, since it takes most of the time. A temperature does not change which domain has the best
    score; the accuracy over the experts served, where the scores of several domains are added up, it moves a little.

    Args:
        corpus: to fit on; prompts without a domain are left out, and those that it is tried on.
        labelled: to try on; not empty.
        serve: the experts of the fleet, `generalist` among them.
        generalist: who answers what nobody is special in.
        seed: shuffles the corpus.
        progress: told how far it is.

    Raises:
        FitError: the whole corpus cannot be fitted; a share that cannot is left out.
        ValueError: the generalist is not served, or an expert is served twice.
    """
    from router_svc.fitting.recipe import FitError  # here, since scikit-learn takes seconds to import

    seen = {line.prompt for line in labelled}
    usable = [line for line in corpus if line.domain and line.prompt not in seen]
    order = np.random.default_rng(seed).permutation(len(usable))
    points = []
    for halving in range(HALVINGS, -1, -1):
        chosen = order[: len(usable) >> halving]
        progress(f"learning curve: {len(chosen)} prompts", HALVINGS - halving, HALVINGS + 1)
        try:
            points.append(_point([usable[at] for at in chosen], labelled, serve, generalist))
        except FitError:  # of a small share, one domain may be all there is
            if not halving:
                raise
    return points


def last_doubling(points: Sequence[Point]) -> float | None:
    """Return the accuracy over domains that the last doubling of the corpus brought; None with fewer than two."""
    return points[-1].domain_accuracy - points[-2].domain_accuracy if len(points) > 1 else None


def _point(
    share: Sequence[LabelledPrompt], labelled: Sequence[LabelledPrompt], serve: Sequence[str], generalist: str
) -> Point:
    from router_svc.fitting import lexical as lexical_fit

    strategy = Lexical(lexical_fit.fit(share, lexical_fit.Settings(held_back=1), sources=[]))
    scores = strategy.scores([line.prompt for line in labelled])
    folded = fold(scores, strategy.experts, serve=serve, generalist=generalist).argmax(axis=1)
    domains = [line.domain or generalist for line in labelled]
    over_served = float(
        np.mean(
            [serve[at] == (name if name in serve else generalist) for at, name in zip(folded, domains, strict=True)]
        )
    )
    over_domains = float(
        np.mean([strategy.experts[at] == name for at, name in zip(scores.argmax(axis=1), domains, strict=True)])
    )
    return Point(
        len(share),
        over_served,
        *judging.interval(over_served, len(labelled)),
        over_domains,
        *judging.interval(over_domains, len(labelled)),
    )
