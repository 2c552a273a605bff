"""Which concepts does the reward follow, and which move it?

In: the model, the battery's contrasts, the audited pairs as the corpus. Out: two forests and a table. No section for models
whose contrasts are too few, and none of identity terms, which are no one concept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewarden import plots
from rewarden.plots.concepts import concept_table
from rewarden.report.context import Audit
from rewarden.report.section import FigureBlock, Finding, Section, section
from rewarden.report.words import interval, listed
from rewarden.result import Result

if TYPE_CHECKING:
    from rewarden.contrasts import Contrast

TITLE = "Which concepts the reward follows"
TEXTS, EACH = 100, 40
"""Audited pairs that make the corpus, and contrasts of each concept, at most."""
NAMED = 4
"""Concepts named in a sentence, for each direction."""
UNLIKE = "identity"
"""Beginning of the names of axes that compare terms with each other."""
ASKED = "all but identity"
"""Which of the battery's axes are asked for."""


@section("concepts", title=TITLE, order=485)
def build(audit: Audit) -> Section | None:
    """The section; None for what has no read-out of its own (ensembles)."""
    if audit.rm is not None and getattr(audit.rm, "readout", None) is None:
        return None
    return described(audit.result("concepts", lambda: concepts_of(audit)))


def asked() -> list[Contrast]:
    """The battery's contrasts, but for axes that compare terms with each other."""
    from rewarden.hacking.bias.battery import contrasts

    return [one for one in contrasts() if not one.axis.startswith(UNLIKE)]


def concepts_of(audit: Audit) -> Result:
    """The survey of the battery's axes on the audited pairs."""
    from rewarden.concepts import survey  # torch; a report written again from its folder does without

    options = audit.options
    return survey(audit.model(), asked(), [audit.pairs[row] for row in audit.sample(TEXTS)], level=options.level,
                  seed=options.seed, contrasts_each=EACH)


def described(result: Result) -> Section:
    """The section of a survey."""
    table, facts = concept_table(result), result.provenance
    blocks = [
        FigureBlock(plots.concept_forest(result, "slope"), "Texts without the concept are given as much of it as texts with it "
                    f"have, in the residual stream after layer {facts['layer']} where the reward is read; later layers are "
                    "computed anew. Grey: as far as random directions of the same length move the reward. Filled: further "
                    "than they do, after correction for the number of concepts.",
                    table[["concept", "slope", "slope_low", "slope_high", "random_slope", "slope_p_adjusted", "moves",
                           "seeds"]]),
        FigureBlock(plots.concept_forest(result, "cosine"), "The correlation of two read-outs of the same states on the "
                    "audited pairs: how much of the concept they hold, and the reward. Grey: as far as random read-outs go "
                    "along with the concept. Filled: further than they do, after correction.",
                    table[["concept", "auc", "auc_low", "auc_high", "paired", "cosine", "cosine_low", "cosine_high",
                           "random_cosine", "p_adjusted", "follows", "length_share", "seeds"]])]
    return Section("concepts", TITLE, _findings(result), blocks, _methods(result),
                   {"concepts": table.to_dict("records"), "warnings": list(result.warnings)})


def _findings(result: Result) -> list[Finding]:
    from rewarden.hacking.calibration import survey_null_words

    data, table = result.data, concept_table(result)
    count, n = len(table), f"{int(data['seeds'].min())} to {int(data['seeds'].max())} seeds a concept"
    moved = table[table["moves"]].sort_values("slope", key=abs, ascending=False)
    sides = []
    for words, rows in (("raising it", moved[moved["slope"] > 0]), ("lowering it", moved[moved["slope"] < 0])):
        named = [f"{row.concept.replace('_', ' ')} {interval(row.slope, row.slope_low, row.slope_high)}"  # type: ignore[union-attr,arg-type]
                 for row in rows.head(NAMED).itertuples()]
        if named:
            sides.append(f"{words}: {listed(named)}")
    text = (f"Moving texts along {len(moved)} of {count} concepts changes the reward more than random directions do ({n})"
            + (f"; {'; '.join(sides)} reward units" if sides else "") + f". {survey_null_words(result.provenance, ASKED)}")
    found = [Finding(text, "fact" if len(moved) else "clear", 14)]
    follows = table[table["follows"]]
    named = [f"{row.concept.replace('_', ' ')} {interval(row.cosine, row.cosine_low, row.cosine_high)}"  # type: ignore[union-attr,arg-type]
             for row in follows.head(NAMED).itertuples()]
    found.append(Finding(
        f"On the audited pairs the reward goes along with {len(follows)} of {count} concepts further than random read-outs of "
        f"the same states do{', most of all ' + listed(named) if named else ''} (correlation; {n}). "
        f"{survey_null_words(result.provenance, ASKED, 'follows')}",
        "fact" if named else "clear", 7))
    unknown = table[(table["auc_low"] <= 0.5) & ~(table["paired"] > 0.75)]["concept"].tolist()
    if unknown:
        named = listed([name.replace("_", " ") for name in unknown])
        found.append(Finding(f"Of {named}, no direction was found that tells texts of other seeds apart: nothing is said of "
                             f"{'it' if len(unknown) == 1 else 'them'}.", "fact", 1))
    return found


def _methods(result: Result) -> str:
    facts = result.provenance
    how = {"lda": "linear discriminants", "logistic": "logistic regressions", "mean_difference": "differences of means"}
    kept = str(facts.get("length_axes", "length")).replace(" ", " and ")
    return (f"Concepts are read by {how[str(facts['method'])]} between texts with and without the concept (the battery's "
            "contrasts) at the state the head reads, and texts are moved along differences of means in the residual stream; "
            "AUCs are of texts whose seeds did not make the direction, length and all. For correlations and moves of all but "
            f"{kept}, the part along which states vary with the number of tokens is taken out first; a "
            "concept may still bring along what usually comes with it. The "
            f"correlation is the cosine of concept and reward in the frame of {facts['frame_texts']} texts; its p is a rank "
            f"among {facts['heads']} random read-outs, that of the slope compares with {facts['randoms']} random directions of "
            f"the same length on {facts['items']} texts; both are corrected by Holm's method at "
            f"{100 * float(facts['alpha']):g} %.")
