"""Do models love and hate the same single tokens? Their scans of the vocabulary, in the layout of a comparison.

In: members with their models. Out: rank correlations over the tokens that all have. The work is that of `rewarden.tokens`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from rewarden.comparison.matrices import BLOCKS
from rewarden.comparison.members import Member
from rewarden.errors import RewardenError
from rewarden.options import GREATEST, WORST, CompareOptions
from rewarden.tokens import rank_agreement, score_vocabulary, shared_vocabulary
from rewarden.tokens.framing import token_clusters

PROMPTS = (GREATEST, WORST)


def compare_vocabularies(members: Sequence[Member], options: CompareOptions) -> xr.Dataset:
    """`vocabulary_tau`, `vocabulary_spearman` with their ends (prompt, model, other), `vocabulary_n` (prompt).

    Raises:
        RewardenError: a member of which only scores are known, or an ensemble.
    """
    closed = [member for member in members if member.rm is None]
    if closed:
        ensembles = all(member.scorer is not None for member in closed)
        raise RewardenError(f"no vocabulary of {', '.join(member.name for member in closed)}", where="compare(vocabulary=True)",
                            why="an ensemble has no vocabulary of its own" if ensembles else "only scores are known of it",
                            fix=f"pass {'the members of the ensemble' if ensembles else 'the model'}, or vocabulary=False")
    scans = [score_vocabulary(member.rm, list(PROMPTS)) for member in members if member.rm is not None]
    shared = shared_vocabulary(scans, names=[member.name for member in members])
    found = rank_agreement(shared, k=[10], blocks=BLOCKS, clusters=token_clusters(shared.of(0).data), level=options.level,
                           seed=options.seed).data
    kept = {f"vocabulary_{name}{end}": (("vocabulary_prompt", "model", "other"), found[f"{name}{end}"].values)
            for name in ("tau", "spearman") for end in ("", "_low", "_high")}
    data = xr.Dataset({**kept, "vocabulary_n": ("vocabulary_prompt", np.atleast_1d(found["n"].values))})
    return data.assign_coords(vocabulary_prompt=[str(prompt) for prompt in found["prompt"].values])
