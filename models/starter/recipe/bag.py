"""A bag-of-words Bradley-Terry model: the plain method that the members are compared with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression

from split import MIXTURE, longer_wins

if TYPE_CHECKING:
    from pairs import Pair


WORD = r"\w+|[^\w\s]"


@dataclass(frozen=True)
class Bag:
    """Weights on the square roots of hashed one- and two-word counts of a response."""

    counts: HashingVectorizer
    weights: LogisticRegression

    def margins(self, items: list[Pair]) -> np.ndarray:
        """Score of the chosen response less the score of the rejected one."""
        return self.weights.decision_function(differences(self.counts, items))


def differences(counts: HashingVectorizer, items: list[Pair]) -> sparse.csr_matrix:
    """One row a pair: features of the chosen response less those of the rejected one."""
    chosen = counts.transform([item.chosen for item in items]).sqrt()
    return (chosen - counts.transform([item.rejected for item in items]).sqrt()).tocsr()


def fit(items: list[Pair]) -> Bag:
    """Fit to all training pairs, weighted to the members' mixture: quotas and length balance."""
    counts = HashingVectorizer(
        n_features=2**18, ngram_range=(1, 2), alternate_sign=False, norm=None, token_pattern=WORD
    )
    sides = Counter((item.source, longer_wins(item)) for item in items)
    weight = np.array(
        [MIXTURE[item.source].quota / 2 / sides[item.source, longer_wins(item)] for item in items]
    )
    rows = differences(counts, items)
    labels = np.repeat([1, 0], len(items))
    model = LogisticRegression(C=0.002, fit_intercept=False, max_iter=300)
    model.fit(sparse.vstack([rows, -rows]), labels, sample_weight=np.tile(weight, 2))
    return Bag(counts, model)
