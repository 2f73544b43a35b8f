"""The paper's recipe: corpus → TF-IDF → SVD → unit length → balanced k-means → what each cluster's experts are.

Source:
    Expert Router (arXiv 2404.15153) names the steps; c-BTM (arXiv 2303.14177) and its published training script
    give their settings: English stop words and tokens that start with a digit dropped, 100 components, balance
    while fitting.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD  # type: ignore[import-untyped]  # publishes no types
from sklearn.feature_extraction.text import (  # type: ignore[import-untyped]  # publishes no types
    ENGLISH_STOP_WORDS,
    TfidfVectorizer,
)
from sklearn.preprocessing import normalize  # type: ignore[import-untyped]  # publishes no types

from router_svc.classifying import drift
from router_svc.fitting.balanced import balanced_centres
from router_svc.fitting.corpus import LabelledPrompt
from router_svc.fitting.mapping import PRIOR_PROMPTS, described, judge, shares_of
from router_svc.strategies.artefact import Artefact, Json
from router_svc.strategies.vectoriser import tokens

SMALL_CORPUS = 5000  # prompts; below, rare words are kept

Progress = Callable[[str, int, int], None]  # step, done, of


class FitError(ValueError):
    """The corpus does not allow this fit. The message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to fit."""

    clusters: int = 16
    components: int = 100  # fewer when the corpus has fewer prompts or words
    min_df: int | None = None  # prompts that a word must occur in; None: 1 in a corpus under 5,000 prompts, else 3
    seed: int = 0
    starts: int = 30  # k-means runs from different rows; the best is kept


def words_of(prompt: str) -> list[str]:
    """Return the words that count: no stop words, nothing that starts with a digit."""
    return [word for word in tokens(prompt.lower()) if word not in ENGLISH_STOP_WORDS and not word[0].isdigit()]


def fit(
    corpus: Sequence[LabelledPrompt],
    settings: Settings,
    *,
    by_hand: Mapping[int, str],
    sources: Sequence[Json],
    progress: Progress = lambda step, done, of: None,
) -> Artefact:
    """Fit the strategy `clusters`. Equal arguments give equal tensors.

    Args:
        corpus: the prompts; those with a domain say which experts a cluster's prompts need.
        settings: how.
        by_hand: cluster → expert, before which labels give way.
        sources: what to write down about the corpus's files: name, SHA-256, prompts.
        progress: told about each step.

    Returns:
        The artefact. Without labels and `by_hand` it names no experts and cannot serve yet.

    Raises:
        FitError: too few prompts for so many clusters, no words left, or a mapping for a cluster that is not there.
    """
    if unknown := sorted(cluster for cluster in by_hand if not 0 <= cluster < settings.clusters):
        raise FitError(f"--map names cluster {unknown[0]}; there are 0 to {settings.clusters - 1}")
    progress("counting words", 0, 1)
    min_df = settings.min_df or (1 if len(corpus) < SMALL_CORPUS else 3)
    tfidf = TfidfVectorizer(analyzer=words_of, min_df=min_df)
    try:
        weights = tfidf.fit_transform([line.prompt for line in corpus])
    except ValueError:
        raise FitError(f"no word of the corpus occurs in {min_df} prompts or more; try a smaller --min-df") from None
    known = weights.getnnz(axis=1) > 0
    if known.sum() < settings.clusters:
        raise FitError(f"{known.sum()} prompts with words are too few for {settings.clusters} clusters")
    components = max(1, min(settings.components, int(known.sum()) - 1, weights.shape[1] - 1))
    progress("reducing dimensions", 0, 1)
    svd = TruncatedSVD(components, random_state=settings.seed)
    with np.errstate(invalid="ignore", divide="ignore"):  # explained variance, unused: 0/0 when all prompts are equal
        points = normalize(svd.fit_transform(weights[known]))

    labels = [line.domain for line, has_words in zip(corpus, known, strict=True) if has_words]
    experts = tuple(sorted({label for label in labels if label} | set(by_hand.values())))
    expert_of = np.array([experts.index(label) if label else -1 for label in labels])
    runs = []
    for start in range(settings.starts):
        progress("balancing clusters", start, settings.starts)
        centres = balanced_centres(points, settings.clusters, seed=settings.seed * 1000 + start)
        runs.append(judge(points, centres, expert_of, len(experts)))
    best = max(runs, key=lambda run: run.merit)  # the first of equals
    shares, how = shares_of(best, by_hand, experts)
    sizes = np.bincount(best.members, minlength=settings.clusters)
    return Artefact(
        strategy="clusters",
        experts=experts,
        words=tuple(tfidf.get_feature_names_out()),
        tensors={
            "word_vectors": (svd.components_ * tfidf.idf_).T.astype(np.float32),
            "centres": best.centres.astype(np.float32),
            "cluster_experts": shares.astype(np.float32),
            "prior": (sizes @ shares / sizes.sum()).astype(np.float32),
        },
        settings=asdict(settings) | {"min_df": min_df, "components": components, "prior_prompts": PRIOR_PROMPTS},
        provenance=_provenance(corpus, known, sources)
        | ({drift.TRAFFIC: drift.fitted(shares[best.members].astype(np.float32), experts)} if experts else {}),
        mapping={
            "how": how,
            "clusters": described(best, weights[known], tfidf.get_feature_names_out(), shares, experts),
        },
    )


def _provenance(corpus: Sequence[LabelledPrompt], known: NDArray[np.bool_], sources: Sequence[Json]) -> Json:
    """Write down where the artefact comes from."""
    return {
        "corpus": list(sources),
        "prompts": len(corpus),
        "prompts_without_known_words": int((~known).sum()),
        "labels": dict(sorted(Counter(line.domain for line in corpus if line.domain).items())),
        "made_with": {package: version(package) for package in ("numpy", "ortools", "scikit-learn")},
    }
