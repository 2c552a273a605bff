"""What speaks for a feature pack, and does it say what the pack claims?

In: numbers of a gate. Out: `Evidence`, and the reasons why it does not validate. Ignorant of files and models.

The rule. A pack is validated when, at a level of 95 % or more,
1. `within` (strata of style and length) and `matched` (one style and nearest length) lie above chance with their
   whole intervals, and both are at least LEAST_AUC;
2. there are at least two strata, each with LEAST_EACH rollouts of either outcome, that hold at least half of all rollouts;
3. `within` is what the strata give: the mean of their AUCs, weighted by right × wrong, to TOLERANCE;
4. no stratum's interval lies below chance as a whole;
5. at least LEAST_CLUSTERS prompts are behind it, the verdict is "passed", the features were not chosen on the same
   rollouts, and the pack has the very weights of the score that was gated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.training.packs.schema import Fault

LEAST_AUC, LEAST_EACH, LEAST_CLUSTERS, TOLERANCE = 0.55, 10, 10, 1e-6


@dataclass(frozen=True)
class Auc:
    """How often a rollout with the outcome scores above one without, with the ends of its interval."""

    auc: float
    low: float
    high: float


@dataclass(frozen=True)
class Stratum:
    """The AUC among rollouts of one style and like length."""

    style: str
    shortest: float
    longest: float
    auc: float
    low: float | None
    high: float | None
    right: int
    wrong: int


@dataclass(frozen=True)
class Evidence:
    """What was measured of the weighted score of a pack; see `pack_schema.json` for each number.

    Attributes:
        plain: over all rollouts.
        within: within strata of style and length.
        matched: among rollouts of one style and nearest length only.
        level: coverage of the intervals.
        n: rollouts.
        clusters: prompts.
        data_sha256: of scores, labels, styles, lengths and prompts.
        rollouts_sha256: of the same without scores.
        weights_sha256: of the weights of the score.
        chosen_on: rollouts_sha256 of those the features were chosen on; None where they were not chosen by data.
        strata: those that were compared in.
        verdict: of the gate.
        date: year-month-day.
        rewarden: version.
    """

    plain: Auc
    within: Auc
    matched: Auc
    level: float
    n: int
    clusters: int
    data_sha256: str
    rollouts_sha256: str
    weights_sha256: str
    chosen_on: str | None
    strata: tuple[Stratum, ...]
    verdict: Literal["passed", "style only", "against", "not shown"]
    date: str
    rewarden: str


def evidence_of(result: Result, *, chosen_on: str | None = None) -> Evidence:
    """The evidence block of the score that was gated with `weights=`.

    Args:
        result: of `gate_features(..., weights=...)`.
        chosen_on: provenance["chosen_on"] of the discovery that chose the features, where there was one.

    Raises:
        RewardenError: the gate was not asked about a score.
    """
    from rewarden import __version__

    if result.kind != "gate" or "score" not in result.data["feature"].values:
        raise RewardenError("there is no evidence on a weighted score", where="evidence_of(result)",
                            why=f"the result is of {result.kind}, without a score",
                            fix="gate_features(..., weights=pack.weights)")
    row = result.data.sel(feature="score").isel(stratum=np.flatnonzero(result.data["used"].values))

    def auc(name: str) -> Auc:
        return Auc(*(float(row[name + end]) for end in ("", "_low", "_high")))

    def end(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    strata = tuple(Stratum(str(row["style"].values[s]), float(row["shortest"][s]), float(row["longest"][s]),
                           float(row["stratum_auc"][s]), end(float(row["stratum_low"][s])), end(float(row["stratum_high"][s])),
                           int(row["right"][s]), int(row["wrong"][s])) for s in range(row.sizes["stratum"]))
    about = result.provenance
    return Evidence(auc("plain"), auc("within"), auc("matched"), float(about["level"]), int(about["n"]),
                    int(about["clusters"]), *(str(about[f"{name}_sha256"]) for name in ("data", "rollouts", "weights")),
                    chosen_on, strata, str(row["finding"].values), datetime.now(UTC).date().isoformat(), __version__)  # type: ignore[arg-type]


def inconsistencies(evidence: Evidence, where: str = "$.evidence") -> Iterator[Fault]:
    """Numbers that cannot stand beside one another, whatever is claimed."""
    for name in ("plain", "within", "matched"):
        one = getattr(evidence, name)
        if not one.low <= one.auc <= one.high:
            yield Fault(f"{where}.{name}", f"{one.auc:g} does not lie between its ends {one.low:g} and {one.high:g}")
    for place, one in enumerate(evidence.strata):
        at = f"{where}.strata[{place}]"
        if (one.low is None) != (one.high is None):
            yield Fault(at, "one end of the interval is missing")
        elif one.low is not None and one.high is not None and not one.low <= one.auc <= one.high:
            yield Fault(at, f"{one.auc:g} does not lie between its ends {one.low:g} and {one.high:g}")
        if one.shortest > one.longest:
            yield Fault(at, f"the shortest completion ({one.shortest:g}) is longer than the longest ({one.longest:g})")
    counted = sum(one.right + one.wrong for one in evidence.strata)
    if counted > evidence.n:
        yield Fault(f"{where}.strata", f"they hold {counted} rollouts of {evidence.n}")
    if evidence.clusters > evidence.n:
        yield Fault(f"{where}.clusters", f"{evidence.clusters} prompts of {evidence.n} rollouts")
    try:
        datetime.strptime(evidence.date, "%Y-%m-%d")
    except ValueError:
        yield Fault(f"{where}.date", f"{evidence.date} is no day")


def shortfalls(evidence: Evidence, where: str = "$.evidence") -> Iterator[Fault]:
    """Why this evidence does not validate a pack: what the rule above asks for and does not find."""
    for name in ("within", "matched"):
        one = getattr(evidence, name)
        if not (one.low > 0.5 and one.auc >= LEAST_AUC):
            yield Fault(f"{where}.{name}", f"{one.auc:.3f}, {one.low:.3f} to {one.high:.3f}: an interval above .5 and an AUC "
                        f"of at least {LEAST_AUC} are needed")
    strata = evidence.strata
    thin = [s for s, one in enumerate(strata) if min(one.right, one.wrong) < LEAST_EACH]
    if len(strata) < 2:
        yield Fault(f"{where}.strata", f"{len(strata)} strata: with fewer than 2, style and length were not held apart")
    if thin:
        yield Fault(f"{where}.strata[{thin[0]}]", f"fewer than {LEAST_EACH} rollouts of one outcome")
    if sum(one.right + one.wrong for one in strata) * 2 < evidence.n:
        yield Fault(f"{where}.strata", "they hold less than half of the rollouts")
    compared = sum(one.right * one.wrong for one in strata)
    if compared:
        given = sum(one.auc * one.right * one.wrong for one in strata) / compared
        if abs(given - evidence.within.auc) > TOLERANCE:
            yield Fault(f"{where}.within.auc", f"{evidence.within.auc:g}, but the strata give {given:.6f}")
    for place, one in enumerate(strata):
        if one.high is not None and one.high < 0.5:
            yield Fault(f"{where}.strata[{place}]", f"its interval ends at {one.high:.3f}: here the score reads the wrong way")
    if evidence.clusters < LEAST_CLUSTERS:
        yield Fault(f"{where}.clusters", f"{evidence.clusters} prompts, at least {LEAST_CLUSTERS} needed")
    if evidence.verdict != "passed":
        yield Fault(f"{where}.verdict", f"the gate says {evidence.verdict!r}")
    if evidence.chosen_on == evidence.rollouts_sha256:
        yield Fault(f"{where}.chosen_on", "the features were chosen on the very rollouts that speak for them")
