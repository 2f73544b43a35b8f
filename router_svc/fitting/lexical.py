"""Labelled corpus → the artefact of the strategy `lexical`."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import scipy.sparse as sparse  # type: ignore[import-untyped]  # publishes no types
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # publishes no types

from router_svc.classifying import drift
from router_svc.fitting.corpus import LabelledPrompt
from router_svc.fitting.recipe import SMALL_CORPUS, FitError, Progress
from router_svc.strategies.artefact import Artefact, Json
from router_svc.strategies.calibration import softmax, temperature
from router_svc.strategies.lexical_features import features_of

_without: Callable[[str, str], str] = re.compile(r"\n[A-D][.)] .*", re.DOTALL).sub


def without_options(text: str) -> str:
    """Return a question from a test without its options: who asks a question of his own has none."""
    return _without("", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to fit."""

    inverse_regularisation: float = 4.0  # C of scikit-learn; smaller means smaller weights, better on unseen sources
    min_df: int | None = None  # prompts that a feature must occur in; None: 1 in a corpus under 5,000 prompts, else 3
    most: int = 130_000  # features kept, the commonest; bounds the artefact at about 6 MB for six experts
    class_balance: float = 1.0  # 0: prompts count alike; 1: domains do
    source_balance: float = 0.5  # 0: prompts count alike; 1: sources do
    held_back: int = 4  # folds; each is held back once, to fit the temperature to
    iterations: int = 300  # at most
    tolerance: float = 1e-4  # of the gradient; ten times as much stops early, at a point of accuracy
    seed: int = 0  # deals the folds


def fit(
    corpus: Sequence[LabelledPrompt],
    settings: Settings,
    *,
    sources: Sequence[Json],
    progress: Progress = lambda step, done, of: None,
) -> Artefact:
    """Fit the strategy `lexical`. Equal arguments give equal tensors.

    Args:
        corpus: the prompts; those without a domain are left out.
        settings: how.
        sources: what to write down about the corpus's files: name, SHA-256, prompts.
        progress: told about each step.

    Raises:
        FitError: fewer than two domains, or no feature occurs often enough.
    """
    labelled = [line for line in corpus if line.domain]
    experts = tuple(sorted({line.domain for line in labelled if line.domain}))
    if not experts:
        raise FitError("no prompt has a domain to learn; --strategy clusters fits a corpus without")
    if len(experts) == 1:
        raise FitError(f"all prompts are of domain {experts[0]!r}: a router needs two or more to tell apart")
    progress("counting features", 0, 1)
    table = Table.of(labelled, experts, settings)
    folds = np.random.default_rng(settings.seed).integers(settings.held_back, size=len(labelled))[table.line]
    logits = np.zeros((len(table.line), len(experts)))
    scored = np.zeros(len(table.line), dtype=np.bool_)
    for fold in range(settings.held_back):
        progress("holding back", fold, settings.held_back + 1)
        kept, back = table.rows(folds != fold), folds == fold
        if len(np.unique(kept.label)) > 1 and back.any():
            logits[back] = Layer.fitted(kept, settings).logits(table.rows(back))
            scored |= back
    progress("fitting", settings.held_back, settings.held_back + 1)
    layer = Layer.fitted(table, settings)
    scored &= table.whole
    found = temperature(logits[scored], table.label[scored])
    return Artefact(
        strategy="lexical",
        experts=experts,
        words=table.features,
        tensors={
            "weights": (layer.weights / found).astype(np.float32),
            "idf": layer.idf.astype(np.float32),
            "bias": (layer.bias / found).astype(np.float32),
        },
        settings=asdict(settings) | {"min_df": table.min_df, "temperature": round(found, 4)},
        provenance={
            "corpus": list(sources),
            "prompts": len(labelled),
            "prompts_without_domain": len(corpus) - len(labelled),
            "labels": dict(sorted(Counter(line.domain for line in labelled).items())),
            "made_with": {package: version(package) for package in ("numpy", "scikit-learn")},
            drift.TRAFFIC: drift.fitted(softmax(logits[scored] / found).astype(np.float32), experts),
        },
        mapping={},
    )


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A corpus as figures. A prompt with options has a second row, without them."""

    features: tuple[str, ...]
    min_df: int
    present: Any  # (rows, features): sparse, 1 where a row has a feature
    label: NDArray[np.int64]  # (rows,): columns
    weight: NDArray[np.float64]  # (rows,): mean 1
    line: NDArray[np.int64]  # (rows,): the line of the corpus
    whole: NDArray[np.bool_]  # (rows,): the prompt as it is in the corpus
    experts: int

    @classmethod
    def of(cls, corpus: Sequence[LabelledPrompt], experts: Sequence[str], settings: Settings) -> "Table":
        """Count the features of a labelled corpus; raises FitError where none occurs often enough."""
        rows: list[dict[str, None]] = []
        lines: list[int] = []
        for at, each in enumerate(corpus):
            texts = dict.fromkeys([each.prompt, without_options(each.prompt)])
            rows += [features_of(text) for text in texts if text.strip()]
            lines += [at] * (len(rows) - len(lines))
        line = np.array(lines)
        whole = np.diff(line, prepend=-1) > 0
        min_df = settings.min_df or (1 if len(corpus) < SMALL_CORPUS else 3)
        # A prompt and its shorter row count once.
        often = Counter(feature for row, first in zip(rows, whole, strict=True) if first for feature in row)
        kept = [feature for feature, count in often.most_common(settings.most) if count >= min_df and _savable(feature)]
        if not kept:
            raise FitError(f"no feature of the corpus occurs in {min_df} prompts or more; try a smaller --min-df")
        place = {feature: at for at, feature in enumerate(sorted(kept))}
        columns = [[place[feature] for feature in row if feature in place] for row in rows]
        starts = np.cumsum([0, *map(len, columns)])
        indices = np.array([column for row in columns for column in row], dtype=np.int32)
        present = sparse.csr_matrix((np.ones(len(indices)), indices, starts), shape=(len(rows), len(place)))
        label = np.array([experts.index(corpus[at].domain or "") for at in line])
        balance = _balance([corpus[at].domain or "" for at in line], settings.class_balance)
        balance *= _balance([corpus[at].source for at in line], settings.source_balance)
        return cls(tuple(place), min_df, present, label, balance / balance.mean(), line, whole, len(experts))

    def rows(self, chosen: NDArray[np.bool_]) -> "Table":
        """Return some of the rows."""
        return Table(
            self.features,
            self.min_df,
            self.present[chosen],
            self.label[chosen],
            self.weight[chosen],
            self.line[chosen],
            self.whole[chosen],
            self.experts,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The linear layer, and the idf of its features."""

    weights: NDArray[np.float64]  # (features, experts)
    bias: NDArray[np.float64]  # (experts,)
    idf: NDArray[np.float64]  # (features,), above zero

    @classmethod
    def fitted(cls, table: Table, settings: Settings) -> "Layer":
        """Fit by multinomial logistic regression; an expert without a prompt gets a bias that rules it out."""
        found = np.bincount(table.present.indices, minlength=len(table.features))
        # As scikit-learn has it. What only a held-back prompt has must not lengthen its vector: such a feature has no
        # weight, so it gets next to no idf.
        idf = np.where(found > 0, np.log((1 + table.present.shape[0]) / (1 + found)) + 1, 1e-6)
        model = LogisticRegression(
            C=settings.inverse_regularisation, max_iter=settings.iterations, tol=settings.tolerance
        )
        with np.errstate(all="ignore"):
            model.fit(_scaled(table, idf), table.label, sample_weight=table.weight)
        weights = np.zeros((len(table.features), table.experts))
        bias = np.full(table.experts, -20.0)
        if len(model.classes_) == 2:  # scikit-learn keeps one row then, of the second against the first
            weights[:, model.classes_] = np.stack([-model.coef_[0] / 2, model.coef_[0] / 2], axis=1)
            bias[model.classes_] = np.array([-model.intercept_[0] / 2, model.intercept_[0] / 2])
        else:
            weights[:, model.classes_] = model.coef_.T
            bias[model.classes_] = model.intercept_
        return cls(weights, bias, idf)

    def logits(self, table: Table) -> NDArray[np.float64]:
        """Return logits of shape (rows, experts)."""
        return np.asarray(_scaled(table, self.idf) @ self.weights + self.bias)


def _scaled(table: Table, idf: NDArray[np.float64]) -> Any:
    """Return the rows with idf for each feature, scaled to unit length: sparse, (rows, features)."""
    scaled = table.present @ sparse.diags(idf)
    lengths = np.sqrt(np.asarray(scaled.multiply(scaled).sum(axis=1)).ravel())
    lengths[lengths == 0] = 1.0
    return sparse.diags(1 / lengths) @ scaled


def _balance(groups: Sequence[str], strength: float) -> NDArray[np.float64]:
    """Return a weight for each row: its group's size to the power of -strength."""
    sizes = Counter(groups)
    return np.array([float(sizes[group]) ** -strength for group in groups])


def _savable(feature: str) -> bool:
    """Whether a feature can stand in a file: half a surrogate pair cannot."""
    try:
        feature.encode()
    except UnicodeEncodeError:
        return False
    return True
