"""Which pairs are labelled the wrong way round?

In: a model, labelled pairs, a dictionary. Out: a `label_audit` Result: the evidence that other pairs give for each label
through their features, and the labels it calls flipped. The model's own reward is not asked: it learnt from such labels.
Source: SAFER's pair scores, arXiv 2507.00665; the held-out evidence and the test are our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from scipy import sparse

from rewarden.conversation import Pair
from rewarden.dictionaries.contrast.fired import Sides, sides_of
from rewarden.dictionaries.contrast.mislabels import find_mislabels, flagged
from rewarden.dictionaries.contrast.regression import Evidence, contrast_evidence, fold_of, regression_evidence
from rewarden.dictionaries.contrast.separating import contrast_score, provenance_of
from rewarden.dictionaries.dictionary import Dictionary
from rewarden.edits.edit import Site
from rewarden.options.checks import resolve
from rewarden.options.contrast import LabelAuditOptions
from rewarden.result import Result
from rewarden.scores import pair_coordinates
from rewarden.statistics import require_n, share_interval

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

MINIMUM = 30
"""Prompts below which weights learnt from some of them judge nothing."""


def audit_labels(rm: RewardModel, pairs: Sequence[Pair], dictionary: Dictionary, *, site: Site | None = None,
                 options: LabelAuditOptions | None = None, **overrides: Any) -> Result:
    """Which labels do the features of all other pairs doubt?

    The pairs are cut into folds, prompt by prompt; features of the other folds learn what chosen responses have, and say how
    strongly they speak for each label of this one. Labels are called flipped only if the losses where the evidence is strong
    are more than doubtful pairs explain (p ≤ alpha), and then so many that a share alpha of them at most is right on average.
    That holds where the evidence is noisy, not where it is mistaken: if features mislead about one kind of pair, its labels
    will be called flipped too, so look at what is flagged (`reason`) before anything is turned round.

    Args:
        rm: the model.
        pairs: labelled pairs, of at least 30 prompts; most of the labels are taken to be right.
        dictionary: features; pass `site` where it does not say where it reads.
        options: `LabelAuditOptions`; single fields may be given as keywords.

    Returns:
        Result of kind "label_audit". `evidence` (pair): for the label, log-odds for the method "regression", standard
        deviations for "contrast"; sort by it, lowest first, to look at labels by hand. `rate`, `rate_low` (): share of flipped
        labels, most likely and at least (95 %); `p` () of the test that none was flipped; `probability` (pair) that a label
        was, if `rate_low` of them were; `flipped` (pair). The method "contrast" only ranks: these are NaN, and none is called
        flipped. `reason` (pair, rank), features that speak most against the label, −1 where there are none, and
        `reason_evidence` (pair, rank), what each says: all features' terms sum to the evidence. `weight` (feature), evidence
        per unit of a feature, mean over folds. `agreement` (), share of labels the evidence agrees with, `agreement_low`,
        `agreement_high` (over prompts, see `rewarden.statistics.share_interval`).

    Raises:
        RewardenError: too few prompts; see `sides_of`.

    Example:
        >>> import rewarden as rw, torch
        >>> rm = rw.load()
        >>> atoms = torch.eye(rm.architecture.d_model)
        >>> basis = Dictionary(atoms, torch.zeros(len(atoms)), atoms, torch.zeros(len(atoms)), k=3, site=Site("resid_post", 0))
        >>> pairs = [rw.Pair(f"Count to {i}", "One, two.", "No!") for i in range(30)]
        >>> bool(audit_labels(rm, pairs, basis, simulations=19).data["flipped"].any())
        False
    """
    chosen = resolve(LabelAuditOptions, options, overrides)
    fired = sides_of(rm, pairs, dictionary, site=site, positions=chosen.positions, pool=chosen.pool,
                     batch_size=chosen.batch_size)
    require_n(int(fired.clusters.max()) + 1, MINIMUM, "an audit of labels (pairs with prompts of their own)")
    evidence = _evidence(fired, dictionary.d_sae, chosen)
    found = find_mislabels(evidence.held_out, chosen.simulations, chosen.seed, fired.clusters)
    tested = chosen.method == "regression"  # contrast scores rank labels; they are no log-odds that a test could take
    wrong = flagged(found.probability, chosen.alpha) & (tested and found.p <= chosen.alpha)
    agrees = share_interval((np.sign(evidence.held_out) + 1) / 2, fired.clusters, level=chosen.level,
                            n_resamples=chosen.resamples, seed=chosen.seed)
    reasons, said = _reasons(fired, evidence, chosen.reasons)
    data = xr.Dataset({
        "evidence": ("pair", evidence.held_out), "flipped": ("pair", wrong),
        "probability": ("pair", found.probability if tested else np.full(len(wrong), np.nan)),
        "rate": ((), found.rate if tested else np.nan), "rate_low": ((), found.at_least if tested else np.nan),
        "p": ((), found.p if tested else np.nan), "reason": (("pair", "rank"), reasons),
        "reason_evidence": (("pair", "rank"), said), "weight": ("feature", evidence.weights),
        **agrees.variables("agreement")},
        coords={**{name: value for name, value in pair_coordinates(fired.pairs).items() if name != "side"},
                "feature": fired.features, "rank": np.arange(chosen.reasons)})
    return Result("label_audit", data, provenance_of(rm, dictionary, site, chosen, pairs=len(fired.pairs)), exact=True,
                  noise_floor=rm.noise_floor, warnings=_warnings(agrees.low, found.p, chosen))


def _evidence(fired: Sides, latents: int, options: LabelAuditOptions) -> Evidence:
    folds = fold_of(fired.clusters, options.folds, options.seed)
    difference = sparse.csr_array(fired.difference)
    if options.method == "regression":
        return regression_evidence(difference, folds, options.features)
    sides = [sparse.csr_array(side[:, fired.features]) for side in (fired.chosen, fired.rejected)]
    return contrast_evidence(*sides, difference, folds, options.features, lambda c, j: contrast_score(c, j, latents))


def _reasons(fired: Sides, evidence: Evidence, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, count] that speak most against each label, and what they say (negative); −1 and 0 where there are none."""
    n = len(fired.pairs)
    ids, said = np.full((n, count), -1, dtype=np.int64), np.zeros((n, count))
    difference = sparse.csr_array(fired.difference)
    for row in range(n):
        part = slice(difference.indptr[row], difference.indptr[row + 1])
        columns = difference.indices[part]
        terms = difference.data[part] * evidence.by_fold[evidence.folds[row], columns]
        order = np.argsort(terms, kind="stable")[:count]
        order = order[terms[order] < 0]
        ids[row, :len(order)], said[row, :len(order)] = fired.features[columns[order]], terms[order]
    return ids, said


def _warnings(agreement: float, p: float, options: LabelAuditOptions) -> tuple[str, ...]:
    if agreement <= 0.5:
        return ("the features agree with the labels no more often than chance: nothing can be said about single labels",)
    if options.method == "contrast":
        return ("contrast scores rank labels and are no log-odds: no label is called flipped; use method='regression'",)
    return () if p <= options.alpha else ("losses are no more than doubtful pairs explain: no label is called flipped",)
