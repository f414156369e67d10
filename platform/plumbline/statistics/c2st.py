"""The classifier two-sample test: can anyone tell served requests from those that were trained on?

Texts of two samples become hashed counts of words and pairs of words, a logistic regression learns to tell the samples
apart, and its AUROC on texts that it did not see says how far they differ (Lopez-Paz and Oquab 2017, arXiv:1610.06545):
.5 is indistinguishable, 1 two different worlds. No model is needed, and the words that tell them apart are named: often
the finding is a template token or a date, which should be stripped before anything else is believed.

Every text is scored by a fit on the other folds, and compared within its fold only, since two fits share no scale.
Equal texts fall in one fold: a request that occurs in both samples would otherwise push the area below .5.
"""

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plumbline.errors import PlumblineError
from plumbline.statistics.paired import Floats
from plumbline.statistics.ranking import Auroc, auroc_interval

BUCKETS = 2**14
FOLDS = 5
# Fits on overlapping folds err alike, which no fold shows: Nadeau and Bengio (Machine Learning 52, 2003, 239-281) put
# the variance at 1/K + 1/(K - 1) where independent folds would have 1/K.
OVERLAP = sqrt(1 + FOLDS / (FOLDS - 1))
TOLD = 10  # of the words that tell the samples apart, on either side
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class TwoSample:
    """`auroc` of telling `second` from `first`; the words (and weights) most typical of each, the strongest first."""

    auroc: Auroc
    typical_of_first: tuple[tuple[str, float], ...]
    typical_of_second: tuple[tuple[str, float], ...]


def two_sample_test(
    first: Sequence[str],
    second: Sequence[str],
    *,
    clusters: Sequence[str] | None = None,
    confidence: float = 0.90,
    penalty: float = 1.0,
    seed: int = 0,
) -> TwoSample:
    """Cross-fitted AUROC with its interval; the upper bound is what a limit is held against.

    clusters: one name for each text of `first`, then of `second` (a session, a person), kept in one fold; None takes
    each distinct text as its own. `penalty` is the L2 weight beside the summed log loss. PlumblineError where either
    sample has fewer than ten clusters. The same seed gives the same folds.
    """
    texts = [*first, *second]
    names = texts if clusters is None else list(clusters)
    if len(names) != len(texts):
        raise ValueError("clusters holds one name for every text of first, then of second")
    truth = np.arange(len(texts)) >= len(first)
    groups = np.unique(np.array(names, dtype=object), return_inverse=True)[1].astype(np.intp)
    for kind, place in ((~truth, "first"), (truth, "second")):
        if len(np.unique(groups[kind])) < 2 * FOLDS:
            raise PlumblineError(
                f"the {place} sample has {len(np.unique(groups[kind]))} distinct texts or clusters",
                consequence="nothing can be learnt from it and tested on the rest",
                remedy=f"give at least {2 * FOLDS}; a few hundred say something",
            )
    folds = _folds(groups, truth, seed)
    counts = ngram_counts(texts)
    matrix, buckets = _matrix(counts)
    scores = np.empty(len(texts))
    for fold in range(FOLDS):
        held_out = folds == fold
        weights, bias = fit_logistic(matrix[~held_out], truth[~held_out], penalty)
        scores[held_out] = matrix[held_out] @ weights + bias
    area = auroc_interval(scores, truth, clusters=groups, strata=folds, inflation=OVERLAP, confidence=confidence)
    weights, _ = fit_logistic(matrix, truth, penalty)
    words = _words(counts)
    told = [(words[int(buckets[at])], float(weights[at])) for at in np.argsort(weights, kind="stable")]
    return TwoSample(
        area,
        tuple(pair for pair in told[:TOLD] if pair[1] < 0),
        tuple(pair for pair in told[: -TOLD - 1 : -1] if pair[1] > 0),
    )


def _folds(groups: NDArray[np.intp], truth: NDArray[np.bool_], seed: int) -> NDArray[np.intp]:
    """(n,) -> fold of each text: clusters shuffled within their kind (first, second, both) and dealt out in turn."""
    size = np.bincount(groups)
    share = np.bincount(groups, weights=truth.astype(float)) / size
    kind = np.where(share == 0, 0, np.where(share == 1, 1, 2))
    order = np.lexsort((np.random.default_rng(seed).permutation(len(size)), kind))
    fold = np.empty(len(size), dtype=np.intp)
    fold[order] = np.arange(len(size)) % FOLDS
    return fold[groups]


def ngram_counts(texts: Sequence[str]) -> list[Counter[str]]:
    """Words, signs and pairs of them, lower-cased, with how often each occurs."""
    found = []
    for text in texts:
        words = _WORD.findall(text.lower())
        found.append(Counter(words) + Counter(map(" ".join, pairwise(words))))
    return found


def _bucket(ngram: str) -> int:
    return zlib.crc32(ngram.encode("utf-8", "surrogatepass")) % BUCKETS


def _matrix(counts: Sequence[Counter[str]]) -> tuple[Any, NDArray[np.intp]]:
    """scipy CSR (n, k), and the bucket of each of the k columns that any text uses: log(1 + count), rows of length one,
    so that long texts weigh no more."""
    from scipy.sparse import csr_matrix

    rows, columns, values = [], [], []
    for row, ngrams in enumerate(counts):
        for ngram, count in ngrams.items():
            rows.append(row)
            columns.append(_bucket(ngram))
            values.append(float(count))
    buckets, places = np.unique(np.array(columns, dtype=np.intp), return_inverse=True)
    matrix = csr_matrix((values, (rows, places)), shape=(len(counts), len(buckets)))
    matrix.sum_duplicates()
    matrix.data = np.log1p(matrix.data)
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    matrix.data /= np.repeat(np.where(lengths > 0, lengths, 1.0), np.diff(matrix.indptr))
    return matrix, buckets


def _words(counts: Sequence[Counter[str]]) -> dict[int, str]:
    """bucket -> the commonest n-gram in it, over all texts; ties go to the first in the alphabet."""
    total: Counter[str] = Counter()
    for ngrams in counts:
        total.update(ngrams.keys())
    words: dict[int, str] = {}
    for ngram in sorted(total, key=lambda ngram: (-total[ngram], ngram)):
        words.setdefault(_bucket(ngram), ngram)
    return words


def fit_logistic(matrix: Any, truth: NDArray[np.bool_], penalty: float) -> tuple[Floats, float]:
    """(weights, bias) that minimise summed log loss + penalty / 2 * |weights|^2; the bias goes free. matrix: (n, k)."""
    from scipy.optimize import minimize

    sign = np.where(truth, 1.0, -1.0)

    def loss(point: Floats) -> tuple[float, Floats]:
        weights, bias = point[:-1], point[-1]
        margins = sign * (matrix @ weights + bias)
        # log(1 + e^-m) without overflow, and its slope -1 / (1 + e^m)
        value = float(np.logaddexp(0, -margins).sum()) + penalty / 2 * float(weights @ weights)
        slope = -sign * np.exp(-np.logaddexp(0, margins))
        return value, np.append(matrix.T @ slope + penalty * weights, slope.sum())

    best = minimize(loss, np.zeros(matrix.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    return best[:-1], float(best[-1])
