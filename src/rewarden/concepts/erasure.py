"""How is a concept erased from activations at the least change of them, and does a new linear probe still find it?

In: a model, texts with and without a concept, a place. Out: an `Eraser`, an affine map after which the texts that made it have
no covariance with the concept; and a certificate of how much a new probe finds in erased texts that it has not seen, which
may be a lot where texts are few and dimensions many. LEACE in closed form: the package `concept-erasure` computes the same
map in float32 and would be one more dependency for thirty lines. Ignorant of the reward.
Letters: n texts, d width, k dimensions of the concept.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from rewarden.concepts.examples import Examples, examples_of
from rewarden.concepts.places import Place, activations, place_of
from rewarden.concepts.probes import logistic
from rewarden.edits.edit import Site
from rewarden.errors import RewardenError
from rewarden.options.checks import resolve
from rewarden.options.concepts import EraseOptions
from rewarden.result import Result
from rewarden.statistics.clustered import auc_interval

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

PROBES = ("before", "fresh")
"""On whole activations; on erased ones, taught with texts that the eraser has not seen."""

FOUND = 0.55
"""Held-out AUC of a new probe above which a concept is not called erased."""


@dataclass(frozen=True, eq=False)
class Affine:
    """x ↦ x − left·right·(x − mean): takes a k-dimensional part out of x, along `left`, as measured by `right`.

    Attributes:
        mean: float64 [d].
        left: float64 [d, k].
        right: float64 [k, d]; right·left = 1.
    """

    mean: np.ndarray
    left: np.ndarray
    right: np.ndarray

    def __call__(self, states: Any) -> np.ndarray:
        """Erased activations, [..., d]."""
        states = np.asarray(states, np.float64)
        return states - ((states - self.mean) @ self.right.T) @ self.left.T

    def folded(self, weight: np.ndarray) -> tuple[np.ndarray, float]:
        """Weight [d] and constant with weight'·x + constant = weight·erased(x) for every x."""
        along = (weight @ self.left) @ self.right
        return weight - along, float(along @ self.mean)


@dataclass(frozen=True, eq=False)
class Eraser(Affine):
    """An affine map that erases a concept at a place.

    Attributes:
        place: the space.
        certificate: Result "erasure": see `erase`.
    """

    place: Place
    certificate: Result


def leace(x: np.ndarray, z: np.ndarray, *, shrink: bool = True) -> Affine:
    """The least-squares map after which x has no covariance with z, hence no linear probe of z does better than a constant.

    Args:
        x: float64 [n, d].
        z: what is erased [n] or [n, k]: labels, or numbers.
        shrink: estimate the covariance of x with Ledoit and Wolf's shrinkage. The covariance after erasure is 0 with any
            estimate; a better one only changes less of x.

    Raises:
        RewardenError: x does not vary with z at all.

    Source: Belrose et al. 2023, arXiv 2306.03819, theorem 4.3: r(x) = x − W⁺ P W (x − E x), W = Σxx^(−½), P the orthogonal
    projection onto the columns of W Σxz.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> z = np.arange(100) % 2
        >>> x = rng.normal(size=(100, 3)) + z[:, None]
        >>> erased = leace(x, z)(x)
        >>> bool(np.abs((erased - erased.mean(0)).T @ (z - z.mean())).max() < 1e-9)
        True
    """
    x, z = np.asarray(x, np.float64), np.asarray(z, np.float64)
    z = z[:, None] if z.ndim == 1 else z
    mean = x.mean(0)
    return affine(mean, covariance_of(x, shrink), (x - mean).T @ (z - z.mean(0)) / len(x))


def affine(mean: np.ndarray, covariance: np.ndarray, cross: np.ndarray) -> Affine:
    """The map of `leace` from moments: mean [d], covariance [d, d] of x, and its covariance with the concept, cross [d, k].

    Raises:
        RewardenError: no covariance with the concept.
    """
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    root = np.sqrt(values[kept])
    whiten, colour = (vectors[:, kept] / root).T, vectors[:, kept] * root  # W restricted to its range [r, d], W⁺ [d, r]
    columns, strength, _ = np.linalg.svd(whiten @ cross, full_matrices=False)
    basis = columns[:, strength > 1e-10 * max(1.0, float(strength.max(initial=0.0)))]
    if not basis.shape[1]:
        raise RewardenError("there is nothing to erase", where="leace",
                            why="the activations do not vary with the concept at all", fix="use another site or other texts")
    return Affine(mean, colour @ basis, basis.T @ whiten)


def covariance_of(x: np.ndarray, shrink: bool) -> np.ndarray:
    """Covariance [d, d] of activations [n, d], with Ledoit and Wolf's shrinkage or without."""
    centred = x - x.mean(0)
    if not shrink:
        return centred.T @ centred / len(centred)
    from sklearn.covariance import ledoit_wolf

    return ledoit_wolf(centred, assume_centered=True)[0]


def erase(rm: RewardModel, data: Any, *, site: str | Site | Place = "read", options: EraseOptions | None = None,
          **overrides: Any) -> Eraser:
    """Erase a concept, and measure how much of it a new probe finds in erased texts that the eraser has not seen.

    On the texts that made it, LEACE leaves no covariance at all: an identity, which says nothing of other texts. On those, the
    concept's noisy estimate leaves a part, so the certificate is held out: one part of the prompts or seeds makes the eraser,
    a second one, erased, teaches a new probe, and a third one, erased, judges it.

    Args:
        rm: the reward model.
        data: as for `concepts.direction`.
        site: "read" (the normed state that the head reads), or a site such as "resid_post.3".
        options: `EraseOptions`; single fields may be given as keywords.

    Returns:
        An eraser fitted on all texts. Its `certificate` is a Result of kind "erasure": `auc_fresh` with `auc_fresh_low`,
        `auc_fresh_high`, held-out AUC of new logistic probes on erased activations (0.5: nothing is found), cross-fitted over
        prompts or seeds; `auc_before`, likewise, on whole ones; `score` (probe, text) behind both; `covariance`, largest
        covariance of a dimension with the labels over the texts that made the eraser, in standard deviations of both, 0 but
        for rounding; `covariance_held_out` and `covariance_before`, the same over texts that the eraser has not seen, erased
        and whole (chance alone gives up to about √(2·ln d / n)); `idempotent`, largest change by a second erasure, in standard
        deviations; `removed`, share of the activations' variance that is gone; `n`, `n_clusters`. Its warnings say so where
        the interval of `auc_fresh` lies above 0.55. Erasers of the certificate are made from fewer texts than the one that is
        returned.

    Raises:
        RewardenError: data of another form, too few clusters, or nothing to erase.

    Example:
        >>> import rewarden as rw
        >>> pairs = [rw.Pair(f"Name {n} things.", f"**{n}** things!", f"{n} things.") for n in range(20, 40)]
        >>> gone = erase(rw.load(), pairs, folds=3)
        >>> bool(gone.certificate.covariance < 1e-6), bool(gone.certificate.idempotent < 1e-6)
        (True, True)
    """
    chosen = resolve(EraseOptions, options, overrides)
    place = place_of(rm, site, chosen.positions if site != "read" else "read")
    examples = examples_of(rm, data)
    states = activations(rm, examples.rows, place, batch_size=chosen.batch_size)
    made = leace(states, examples.labels, shrink=chosen.shrink)
    found = certificate(states, examples, chosen)
    asked = {"site": str(place), "data": examples.kind, "texts": len(states), **asdict(chosen), "positions": place.positions}
    report = Result("erasure", found, {**rm.provenance(), **asked}, warnings=left_over(found))
    return Eraser(made.mean, made.left, made.right, place, report)


def left_over(found: xr.Dataset) -> tuple[str, ...]:
    """A warning where new probes still find the concept, or where too few texts were compared to say."""
    auc, low, high = (float(found[f"auc_fresh{end}"]) for end in ("", "_low", "_high"))
    if low > FOUND:
        return (f"the concept is not gone: a new probe finds it in erased texts that the eraser has not seen (AUC {auc:.2f}, "
                f"interval {low:.2f} to {high:.2f}, n = {int(found['n_clusters'])} prompts or seeds); more texts make a better "
                "eraser",)
    return () if np.isfinite(low) else ("too few texts to say whether a new probe finds the concept after erasure",)


def certificate(states: np.ndarray, examples: Examples, options: EraseOptions) -> xr.Dataset:
    """How much of a concept is left after erasure; see `erase`."""
    labels, clusters = examples.labels, examples.clusters
    made = leace(states, labels, shrink=options.shrink)
    erased = made(states)
    spread = states.std(0)
    spread[spread < 1e-9 * spread.max()] = np.inf
    again = np.abs((made(erased) - erased) / spread).max()
    folds = examples.folds(options.folds, options.seed)
    halves = folds_of_rest(folds, options.folds)
    scores = np.full((len(PROBES), len(states)), np.nan)
    held_out = np.empty_like(states)
    for part in range(options.folds):
        test, rest = folds == part, folds != part
        first, second = rest & halves[part], rest & ~halves[part]
        seen = leace(states[first], labels[first], shrink=options.shrink)(states)
        held_out[test] = leace(states[rest], labels[rest], shrink=options.shrink)(states[test])
        for number, (shown, taught) in enumerate(((states, rest), (seen, second))):
            scores[number, test] = shown[test] @ logistic(shown[taught], labels[taught], options.ridge)
    everywhere = np.zeros(len(states), np.int64)
    data: dict[str, Any] = {"covariance": _covariance(erased, labels, everywhere, spread),
                            "covariance_held_out": _covariance(held_out, labels, folds, spread),
                            "covariance_before": _covariance(states, labels, folds, spread), "idempotent": again,
                            "removed": 1 - (erased.var(0).sum() / states.var(0).sum()), "n": len(states),
                            "n_clusters": examples.n_clusters, "score": (("probe", "text"), scores),
                            "label": ("text", labels)}
    for name, one in zip(PROBES, scores, strict=True):
        found = auc_interval(one, labels, clusters, folds, level=options.level)
        data |= {f"auc_{name}": found.estimate, f"auc_{name}_low": found.low, f"auc_{name}_high": found.high}
    return xr.Dataset(data, coords={"probe": list(PROBES)})


def _covariance(states: np.ndarray, labels: np.ndarray, folds: np.ndarray, spread: np.ndarray) -> float:
    """Largest covariance of a dimension with the labels, within folds, in standard deviations [d] of both."""
    total = np.zeros(states.shape[1])
    for part in np.unique(folds):
        on = folds == part
        total += (states[on] - states[on].mean(0)).T @ (labels[on] - labels[on].mean())
    return float(np.abs(total / len(labels) / labels.std() / spread).max())


def folds_of_rest(folds: np.ndarray, count: int) -> np.ndarray:
    """For each held-out part, half of the other parts, bool [count, n]: what the eraser sees, the rest teaches a new probe."""
    turn = (folds[None] - np.arange(count)[:, None]) % count  # 0 is held out
    return turn % 2 == 1
