"""The four metrics of the user model, by the published rules, each with its standard error and n.

1. Pick-a-Pic accuracy: PickScore's rule (Kirstain et al. 2023, their code): ties are predicted
   where the two probabilities are near, and half a point is given where only one of label and
   prediction is a tie.
2. HPS Spearman: mean over prompts of Spearman's rank correlation of scores and human ranks (PASTA).
   Beside it HPSv2's own inversion score (Wu et al. 2023, their code).
3. Choice accuracy: the column predicted is the one picked (PASTA).
4. Cross-turn accuracy: better or worse than the last pick, of those who say either (PASTA).
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

THRESHOLDS = np.arange(11) / 10  # PickScore's, for ties


@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error, and how many observations it is a mean of."""

    value: float
    se: float
    n: int


def mean(values: np.ndarray, cluster: np.ndarray | None = None) -> Estimate:
    """The mean of `values` `[N]`; its standard error allows for what the members of a cluster (a
    person's answers, `[N]` of any labels) have in common. ValueError for fewer than two of them."""
    values = np.asarray(values, float)
    number = (
        np.arange(len(values)) if cluster is None else np.unique(cluster, return_inverse=True)[1]
    )
    groups = number.max(initial=-1) + 1
    if groups < 2:
        raise ValueError(f"a standard error needs two clusters or more, got {groups}")
    sums = np.bincount(number, values - values.mean())
    variance = groups / (groups - 1) * np.square(sums).sum() / len(values) ** 2
    return Estimate(float(values.mean()), float(variance**0.5), len(values))


def pickapic_credit(p_1: np.ndarray, label_1: np.ndarray, threshold: float) -> np.ndarray:
    """Points of each pair, 0, .5 or 1. `p_1` `[N]`: probability that image 1 is picked and not
    image 0; `label_1` `[N]`: 1, 0, or .5 for a tie; `threshold`: |p_1 - p_0| up to which a tie is
    predicted."""
    p_1, label_1 = np.asarray(p_1), np.asarray(label_1)
    predicted = np.where(np.abs(2 * p_1 - 1) <= threshold, 0.5, (p_1 > 0.5).astype(float))
    return 1 - np.abs(predicted - label_1)


def best_threshold(p_1: np.ndarray, label_1: np.ndarray) -> float:
    """The threshold that earns most on a validation split; of equals the smallest."""
    earned = [pickapic_credit(p_1, label_1, t).mean() for t in THRESHOLDS]
    return float(THRESHOLDS[int(np.argmax(earned))])


def spearman(scores: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each prompt's scores with its human ranks, `[P]`.

    `scores`, `ranks` `[P, I]`: of the images of a prompt, NaN for images that are not there; rank 1
    is the best, ranks may be averages of several people's. Ties share their mean rank. A prompt
    whose scores, or ranks, are all equal gets 0.
    """
    there = ~(np.isnan(scores) | np.isnan(ranks))
    x, y = (_centred_ranks(np.where(there, v, np.nan)) for v in (scores, -np.asarray(ranks, float)))
    norm = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return np.where(norm > 0, (x * y).sum(1) / np.where(norm > 0, norm, 1), 0.0)


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks within each row less their mean; 0 for NaN."""
    ranks = rankdata(values, axis=1, nan_policy="omit")
    return np.nan_to_num(ranks - np.nanmean(ranks, 1, keepdims=True))


def inversion_score(scores: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """HPSv2's: 1 - the share of a prompt's pairs of images that scores order against the ranks,
    `[P]`; ties count as right; NaN for a prompt with fewer than two images. Arguments as of
    `spearman`."""
    first, second = np.triu_indices(scores.shape[1], 1)
    by_score = np.sign(scores[:, first] - scores[:, second])
    by_rank = -np.sign(ranks[:, first] - ranks[:, second])
    pairs = ~(np.isnan(by_score) | np.isnan(by_rank))
    wrong = ((by_score * by_rank == -1) & pairs).sum(1)
    return 1 - wrong / np.where(pairs.any(1), pairs.sum(1), np.nan)


def choice_hits(p: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Whether the likeliest column was picked, `[N]`, from `p` `[N, L]` and `chosen` `[N]`.

    Columns that are equally likely share the point, so a model without an opinion earns 1 / L.
    """
    likeliest = p == p.max(1, keepdims=True)
    return likeliest[np.arange(len(p)), chosen] / likeliest.sum(1)


def cross_turn_hits(better: np.ndarray, worse: np.ndarray, versus_last: np.ndarray) -> np.ndarray:
    """Whether the likelier of better and worse was said, over those who said either.

    `better`, `worse` `[N]`: probabilities; `versus_last` `[N]`: 1, 0 (same) or -1. Returns fewer
    than N; half a point where both are equally likely.
    """
    said = versus_last != 0
    return (1 + np.sign(better - worse)[said] * versus_last[said]) / 2


def calibration_error(p: np.ndarray, chosen: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of all columns' probabilities `p` `[N, L]`: the mean of |p - share
    picked| over equally full bins (Guo et al. 2017, but of every column, not the likeliest)."""
    flat = p.ravel()
    hit = (np.arange(p.shape[1]) == np.asarray(chosen)[:, None]).ravel()
    order = np.array_split(np.argsort(flat, kind="stable"), bins)
    full = [rows for rows in order if len(rows)]
    gaps = [len(rows) * abs(flat[rows].mean() - hit[rows].mean()) for rows in full]
    return float(sum(gaps) / len(flat))
