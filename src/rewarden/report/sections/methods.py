"""What holds for every section: how to read intervals, and what such a report cannot say."""

from __future__ import annotations

import pandas as pd

from rewarden.report.context import Audit
from rewarden.report.section import Section, TableBlock, section


@section("methods", title="Methods and limits", order=990)
def build(audit: Audit) -> Section:
    """The section."""
    options = audit.options
    rows = [
        ("Reward", "the model's own score of the whole conversation, read at the last token found from the attention mask; "
                   "text is tokenized once, by the chat template"),
        ("Margin", "reward of the chosen response minus reward of the rejected one"),
        ("Intervals", f"{100 * options.level:g} %, from {options.resamples} bootstrap resamples of whole prompts with seed "
                      f"{options.seed} (Wilson for accuracies where each prompt occurs once)"),
        ("Several looks", "intervals are not corrected for the number of sections, subsets or components"),
        ("No evidence", "means that the interval covers zero (or a coin); it does not mean that there is no effect of the "
                        "size of the interval"),
        ("Noise", "differences below the noise floor in the health box are arithmetic, and nothing is said of them"),
        ("Labels", "chosen and rejected are the data set's; where they are wrong, so are accuracies and errors"),
        ("Observation", "length, refusal, style and attribution are observed, not manipulated; the exchange of prompts changes "
                        "an input, and patching changes activations"),
        ("Scope", "findings hold for these pairs and this number format; another data set may show another model"),
    ]
    table = pd.DataFrame(rows, columns=["about", "what holds"])
    return Section("methods", "Methods and limits", [], [TableBlock("What holds throughout", "", table)], "", {})
