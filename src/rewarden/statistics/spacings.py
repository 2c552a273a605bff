"""Do the largest values of a sample stand apart from the rest?

In: a sample. Out: p for each number of outliers of its upper tail. Ignorant of what the values are.

Normalised spacings D_j = j·(X_(j) − X_(j+1)) of the largest values are independent exponentials of one size where the tail is
of exponential type (exactly so for an exponential tail; for a normal one the outer spacings are smaller, which makes the test
careful). So the sum of the first m, over a robust size of the others, has a known law. The size is the median of the others:
a group of values that stand apart together, such as twenty words of one rule, is one large spacing among them, and would
double a mean.
"""

from __future__ import annotations

import numpy as np


def spacings(values: np.ndarray, tail: int) -> np.ndarray:
    """Normalised spacings D_1 … D_tail of the largest values, float64 [tail].

    Example:
        >>> spacings(np.array([1.0, 7.0, 3.0, 2.0]), 3).tolist()
        [4.0, 2.0, 3.0]
    """
    largest = -np.sort(-np.asarray(values, np.float64))[:tail + 1]
    return np.arange(1, tail + 1) * -np.diff(largest)


def outlier_p(values: np.ndarray, most: int, tail: int, floor: float = 0.0, factor: float = 1.0) -> np.ndarray:
    """p of "the m largest stand apart", for m = 1 … most, against a tail of exponential type.

    Args:
        values: [n], more than `tail` of them.
        most: largest number of outliers that are asked about.
        tail: number of spacings looked at.
        floor: differences of rounding; the size of spacings is taken to be no less.
        factor: the outer spacings may be wider than the others by this factor, where a tail is heavier than exponential.

    Returns:
        float64 [most]. With k = tail − m and r = ⌈k/2⌉, the reference is D'_(r), the r-th smallest of D_{m+1} … D_tail, and
        p = P(Gamma(m) > c·E_(r)) for the observed c = ΣD_1…D_m / D'_(r), with E_(r) of k exponentials. A sample without any
        differences has p = 1.

    Source: Weissman, J. Am. Stat. Assoc. 73 (1978) 812–815 (spacings of the largest values); the law of the ratio follows from
    Rényi's representation of E_(r) as a sum of independent exponentials of rates k, k − 1, …, k − r + 1.

    Example:
        >>> sample = -np.log((np.arange(500) + 0.5) / 500)
        >>> bool(outlier_p(sample, 2, 64).min() > 0.05), bool(outlier_p(np.append(sample, 40.0), 2, 64)[0] < 1e-4)
        (True, True)
    """
    found = spacings(values, tail)
    out = np.ones(most)
    for m in range(1, most + 1):
        size = np.sort(found[m:])[-(-(tail - m) // 2) - 1]
        size, total = max(float(size), floor), float(found[:m].sum())
        if total > floor:
            out[m - 1] = ratio_p(total / (factor * size), m, tail - m) if size > 0 else 0.0
    return out


def ratio_p(ratio: float, m: int, k: int) -> float:
    """P(G / E_(r) > ratio) of a Gamma(m) variable and the ⌈k/2⌉-th smallest of k standard exponentials.

    P(G > c·x) = Σ_{i<m} (cx)^i e^{−cx} / i!, and E[x^i e^{−cx}] / i! is L(c)·h_i, with L the Laplace transform of a sum of
    exponentials of rates a and h_i the complete symmetric polynomial of 1 / (a + c).

    Example:
        >>> round(ratio_p(3.0, 1, 1), 4)  # two exponentials: 1 / (1 + 3)
        0.25
    """
    rates = k - np.arange(-(-k // 2))
    power = [np.sum((ratio / (rates + ratio)) ** j) for j in range(m + 1)]
    complete = [1.0]
    for i in range(1, m):  # Newton's identities; each is already multiplied by ratio^i
        complete.append(sum(power[j] * complete[i - j] for j in range(1, i + 1)) / i)
    return float(np.exp(np.log(rates / (rates + ratio)).sum()) * sum(complete))
