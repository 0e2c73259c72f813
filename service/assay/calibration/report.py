"""How good probabilities, thresholds and length control are on pairs that nothing was fitted to.

Intervals are of 95 %, by bootstrap over prompts: pairs of one prompt are drawn together. Bins of
the expected calibration error have equally many pairs and stay while prompts are drawn.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.calibration.extra import library
from assay.cards import calibration as cards

if TYPE_CHECKING:
    from collections.abc import Sequence

RESAMPLES = 1_000
_FEWEST_RESAMPLES = 200
_MOST_CELLS = 20_000_000  # of draws by prompts, 160 MB
BINS = 10
_LEAST = 1e-12  # of a probability, so that its logarithm is finite
_EDGES = (0.0, 0.5, 1.0, 2.0, 4.0, float("inf"))  # of |margin| / std
_SIZES = 5  # bins of |margin|, with equally many pairs
_COVERAGES = tuple(round(0.1 * step, 1) for step in range(1, 11))


class Resampled:
    """Draws of prompts with replacement: how often each pair counts in each draw."""

    def __init__(self, groups: Sequence[str], seed: int) -> None:
        names, self._group = np.unique(np.asarray(groups), return_inverse=True)
        self.prompts = len(names)
        chance = np.random.default_rng(seed)
        share = np.full(self.prompts, 1 / self.prompts)
        count = max(_FEWEST_RESAMPLES, min(RESAMPLES, _MOST_CELLS // self.prompts))
        self._draws = chance.multinomial(self.prompts, share, size=count)

    def sums(self, columns: np.ndarray) -> np.ndarray:
        """Return the draws' sums of columns (pairs, k): (draws, k)."""
        by_prompt = np.zeros((self.prompts, columns.shape[1]))
        np.add.at(by_prompt, self._group, columns)
        return np.asarray(self._draws @ by_prompt)

    def weights(self) -> np.ndarray:
        """Return how often each pair counts in some of the draws: (draws, pairs)."""
        return np.asarray(self._draws[:_FEWEST_RESAMPLES, self._group], dtype=float)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Return each draw's mean over its pairs."""
        sums = self.sums(np.column_stack([values, np.ones(len(values))]))
        return np.asarray(sums[:, 0] / sums[:, 1])


def figures(
    probabilities: np.ndarray, outcomes: np.ndarray, draws: Resampled
) -> tuple[cards.Figures, dict[str, np.ndarray]]:
    """Return NLL, Brier score and ECE of P(outcome 1), and their values in each draw."""
    losses = nll(probabilities, outcomes)
    brier = (probabilities - outcomes) ** 2
    sampled = {
        "nll": draws.means(losses),
        "brier": draws.means(brier),
        "ece": _sampled_ece(probabilities, outcomes, draws),
    }
    values = {
        "nll": float(losses.mean()),
        "brier": float(brier.mean()),
        "ece": ece(probabilities, outcomes),
    }
    return _figures(values, sampled), sampled


def nll(probabilities: np.ndarray, outcomes: np.ndarray) -> np.ndarray:
    """Return −log P of what came, of each."""
    p = np.clip(probabilities, _LEAST, 1 - _LEAST)
    return np.asarray(-(outcomes * np.log(p) + (1 - outcomes) * np.log1p(-p)))


def compared(
    before: tuple[cards.Figures, dict[str, np.ndarray]],
    after: tuple[cards.Figures, dict[str, np.ndarray]],
) -> cards.Figures:
    """Return after less before, in the same draws."""
    sampled = {name: after[1][name] - before[1][name] for name in after[1]}
    values = {
        name: getattr(after[0], name).value - getattr(before[0], name).value for name in after[1]
    }
    return _figures(values, sampled)


def ece(probabilities: np.ndarray, outcomes: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error over bins of equally many."""
    size = len(outcomes)
    gaps = [
        abs(probabilities[part].sum() - outcomes[part].sum())
        for part in _equal(probabilities, bins)
        if len(part)
    ]
    return float(sum(gaps) / size)


def _sampled_ece(probabilities: np.ndarray, outcomes: np.ndarray, draws: Resampled) -> np.ndarray:
    columns = np.zeros((len(outcomes), BINS + 1))
    columns[:, BINS] = 1.0
    for place, part in enumerate(_equal(probabilities, BINS)):
        columns[part, place] = probabilities[part] - outcomes[part]
    sums = draws.sums(columns)
    return np.asarray(np.abs(sums[:, :BINS]).sum(axis=1) / sums[:, BINS])


def reliability(probabilities: np.ndarray, outcomes: np.ndarray) -> list[dict[str, float]]:
    """Return the bins of the reliability diagram: what was said, what came, of how many."""
    return [
        {
            "probability": float(probabilities[part].mean()),
            "share": float(outcomes[part].mean()),
            "count": len(part),
        }
        for part in _equal(probabilities, BINS)
        if len(part)
    ]


def sharpness(probabilities: np.ndarray) -> float:
    """Return the variance of the probabilities: 0 where all are alike, 0.25 where all are sure."""
    return float(((probabilities - 0.5) ** 2).mean())


def accuracy(right: np.ndarray, groups: Sequence[str], seed: int) -> dict[str, Any]:
    """Return the share that is right, its interval, and of how many."""
    if not len(right):
        return {"count": 0}
    draws = Resampled(groups, seed)
    return {
        "count": len(right),
        "accuracy": float(right.mean()),
        "interval": _interval(draws.means(right)),
    }


def by_bins(
    keys: np.ndarray, right: np.ndarray, groups: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """Return accuracies by |margin| / std."""
    return [
        {
            "from": low,
            "to": None if high == _EDGES[-1] else high,
            **_of(((keys >= low) & (keys < high)), right, groups, seed),
        }
        for low, high in pairwise(_EDGES)
    ]


def by_size(
    keys: np.ndarray, right: np.ndarray, groups: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """Return accuracies by |margin|, over bins of equally many."""
    found = []
    for part in filter(len, _equal(keys, _SIZES)):
        chosen = np.zeros(len(keys), dtype=bool)
        chosen[part] = True
        found.append({"to": float(keys[part].max()), **_of(chosen, right, groups, seed)})
    return found


def by_value(
    keys: np.ndarray, right: np.ndarray, groups: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """Return accuracies by the values of a key with few values."""
    rounded = keys.round(3)
    return [
        {"agreement": float(key), **_of(rounded == key, right, groups, seed)}
        for key in np.unique(rounded)[::-1]
    ]


def auroc(uncertainty: np.ndarray, right: np.ndarray, groups: Sequence[str], seed: int) -> Any:
    """Return how well an uncertainty tells wrong orders from right ones; None where all are alike.

    It is the share of (wrong, right) pairs where the wrong one is more uncertain, ties half.
    """
    wrong = np.flatnonzero(right == 0)
    well = np.flatnonzero(right == 1)
    if not len(wrong) or not len(well):
        return None
    weights = Resampled(groups, seed).weights()
    _, ranks = np.unique(uncertainty, return_inverse=True)
    sampled = [_auroc(ranks, wrong, well, draw) for draw in weights]
    return {
        "value": _auroc(ranks, wrong, well, np.ones(len(right))),
        "interval": _interval(np.array(sampled)),
    }


def _auroc(ranks: np.ndarray, wrong: np.ndarray, well: np.ndarray, weights: np.ndarray) -> float:
    count = ranks.max() + 1
    of_wrong = np.bincount(ranks[wrong], weights[wrong], count)
    of_right = np.bincount(ranks[well], weights[well], count)
    below = np.cumsum(of_right) - of_right / 2
    total = of_wrong.sum() * of_right.sum()
    return float((of_wrong * below).sum() / total) if total else 0.5


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """Return the share that is wrong of the surest tenth, two tenths, and so on."""
    ranked = right[np.argsort(-confidence, kind="stable")]
    counts = [max(1, round(share * len(ranked))) for share in _COVERAGES]
    return [
        {"coverage": share, "risk": float(1 - ranked[:count].mean())}
        for share, count in zip(_COVERAGES, counts, strict=True)
    ]


def covered(threshold: cards.Threshold, margins: np.ndarray) -> cards.Threshold:
    """Return a threshold with what it does on held-out margins; ties are undecided."""
    decided = np.abs(margins) > threshold.margin
    wrong = decided & (margins < 0)
    share = 1 - float(wrong.mean())
    interval = library("scipy.stats").binomtest(int((~wrong).sum()), len(wrong)).proportion_ci()
    return threshold.model_copy(
        update={
            "coverage": share,
            "interval": (float(interval.low), float(interval.high)),
            "decided": float(decided.mean()),
            "wrong": float(wrong.sum() / decided.sum()) if decided.any() else 0.0,
        }
    )


def spearman(values: np.ndarray, scores: np.ndarray) -> float:
    """Return the rank correlation; 0 where either doesn't vary."""
    if len(np.unique(values)) < 2 or len(np.unique(scores)) < 2:
        return 0.0
    return float(library("scipy.stats").spearmanr(values, scores).statistic)


def rmse(errors: np.ndarray, draws: Resampled) -> cards.Figure:
    """Return the root of the mean squared error, with its interval."""
    squared = errors**2
    interval = _interval(np.sqrt(draws.means(squared)))
    return cards.Figure(value=_short(np.sqrt(squared.mean())), interval=interval)


def resampled_spearman(values: np.ndarray, scores: np.ndarray, draws: Resampled) -> cards.Figure:
    """Return the rank correlation with its interval."""
    places = np.arange(len(values))
    sampled = [
        spearman(values[drawn], scores[drawn])
        for drawn in (np.repeat(places, weights.astype(int)) for weights in draws.weights())
    ]
    interval = _interval(np.array(sampled))
    return cards.Figure(value=_short(spearman(values, scores)), interval=interval)


def higher_wins(differences: np.ndarray, margins: np.ndarray) -> float:
    """Return how often the response with more of a covariate has the higher score; ties half."""
    unequal = differences != 0
    if not unequal.any():
        return 0.5
    return float(((np.sign(differences * margins) + 1) / 2)[unequal].mean())


def balanced(differences: np.ndarray, right: np.ndarray) -> float:
    """Return the accuracy where the chosen response has more in as many pairs as it has less."""
    more, less = right[differences > 0], right[differences < 0]
    if not len(more) or not len(less):
        return float(right.mean())
    return float((more.mean() + less.mean()) / 2)


def _of(chosen: np.ndarray, right: np.ndarray, groups: Sequence[str], seed: int) -> dict[str, Any]:
    return accuracy(right[chosen], np.asarray(groups)[chosen].tolist(), seed)


def _equal(values: np.ndarray, bins: int) -> list[np.ndarray]:
    """Return places in order of the values, in bins of equally many; equal values share one."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    middles = np.cumsum(counts) - counts / 2
    numbers = (bins * middles[inverse] / len(values)).astype(int)
    return [np.flatnonzero(numbers == number) for number in range(bins)]


def _figures(values: dict[str, float], sampled: dict[str, np.ndarray]) -> cards.Figures:
    return cards.Figures(
        **{
            name: cards.Figure(value=_short(value), interval=_interval(sampled[name]))
            for name, value in values.items()
        }
    )


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return _short(low), _short(high)


def _short(number: float) -> float:
    return float(f"{number:.6g}")
