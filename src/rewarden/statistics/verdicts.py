"""What does an instrument say about one question, and how sure is it?

In: an estimate with its interval, p and n. Out: a `Verdict`, the same for every instrument, so that all can be graded alike.
Ignorant of what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """One question of an instrument, answered.

    Attributes:
        name: of the question, such as "hedging".
        flag: whether the instrument says "there is something", at its stated error rate and after its own adjustment for the
            number of questions.
        evidence: a number that grows with evidence in favour of the flag, comparable between models: what a ROC is made of.
        estimate: the measured quantity.
        low: lower end of its interval; NaN where there is none.
        high: upper end.
        p: unadjusted; NaN where the flag does not rest on one.
        n: independent units behind it.

    Example:
        >>> Verdict("hedging", True, 3.2, -0.4, -0.6, -0.2, 0.001, 36).flag
        True
    """

    name: str
    flag: bool
    evidence: float
    estimate: float
    low: float
    high: float
    p: float
    n: int
