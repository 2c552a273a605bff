"""Numbers with their uncertainty: intervals, permutation tests, multiplicity, and how many items there really are.

In: arrays of values with items on axis 0, optionally with clusters. Out: estimate, interval or p with n and the count
of dropped values. Ignorant of what the values measure.
"""

from rewarden.statistics.intervals import Interval, bootstrap_interval, spearman, wilson
from rewarden.statistics.sampling import EffectiveSize, content_clusters, content_key, effective_sample_size, require_n
from rewarden.statistics.shares import share_interval
from rewarden.statistics.significance import (
    Significance,
    benjamini_hochberg,
    holm,
    monte_carlo_p,
    permutation_test,
    sign_flip_test,
)
from rewarden.statistics.signs import sign_test, sign_test_q
from rewarden.statistics.verdicts import Verdict

__all__ = [
    "EffectiveSize", "Interval", "Significance", "Verdict", "benjamini_hochberg", "bootstrap_interval", "content_clusters",
    "content_key", "effective_sample_size", "holm", "monte_carlo_p", "permutation_test", "require_n", "share_interval",
    "sign_flip_test", "sign_test", "sign_test_q", "spearman", "wilson",
]
