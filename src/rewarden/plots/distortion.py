"""Which kinds of change move the reward while the evaluation pairs hardly vary them?

In: a `Result` of kind "distortion". Out: a table and a figure. Nothing is estimated here.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rewarden.plots.divergence import dots
from rewarden.plots.labels import hover, label
from rewarden.plots.theme import INK, MARGIN, REJECTED, ZERO, figure
from rewarden.result import Result


def distortion_table(result: Result) -> pd.DataFrame:
    """A row a dimension, the largest index first; those without a direction in common last.

    Example:
        >>> from rewarden.plots.divergence_examples import distortion_result
        >>> distortion_table(distortion_result())["dimension"][0]
        'emoji'
    """
    names = ("index", "low", "high", "sensitivity", "sensitivity_low", "sensitivity_high", "sensitive", "coverage",
             "coverage_low", "coverage_high", "dose", "dose_low", "dose_high", "n", "n_seeds", "n_templates", "flag")
    table = pd.DataFrame({"dimension": result.data["dimension"].values.astype(str),
                          **{name: result.data[name].values for name in names}})
    order = np.argsort(-table["index"].abs().fillna(-1.0).to_numpy(), kind="stable")
    return table.iloc[order].reset_index(drop=True)


def distortion_forest(result: Result) -> go.Figure:
    """Which dimensions move the reward, and which do the evaluation pairs vary?

    Args:
        result: of `rewarden.hacking.distortion`.

    Returns:
        A row a dimension, the largest index on top. Left: what it does to the reward, with its interval; filled where the
        reward follows it. Right: the share of its direction that the pairs cover; filled where the row is flagged, nothing
        where the dimension has no direction in common. Orange: flagged.

    Example:
        >>> from rewarden.plots.divergence_examples import distortion_result
        >>> [len(trace.x) for trace in distortion_forest(distortion_result()).data]
        [1, 1, 4, 4]
    """
    table, facts = distortion_table(result), result.data
    table["y"] = np.arange(len(table), 0, -1)
    base = figure(f"What moves the reward, and what {int(result.provenance['pairs'])} evaluation pairs vary",
                  height=190 + 25 * len(table))
    drawn = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    drawn.update_layout(template=base.layout.template, title=base.layout.title, height=base.layout.height, margin={"t": 92})
    for flag, colour, name in ((True, REJECTED, "rewarded and not covered"), (False, INK, "other")):
        rows = table[table["flag"].astype(bool) == flag]
        words = [f"{hover(row.dimension)}<br>index {row.index_:.2f} [{row.low:.2f}, {row.high:.2f}], moving texts along its "
                 f"direction {row.dose:.2f} SD" for row in rows.rename(columns={"index": "index_"}).itertuples(index=False)]
        for column, (value, filled) in enumerate((("sensitivity", "sensitive"), ("coverage", "flag")), 1):
            drawn.add_trace(dots(rows[value], rows[f"{value}_low"], rows[f"{value}_high"], rows["y"].to_numpy(), name, colour,
                                 rows[filled].astype(bool), words, legend=False), row=1, col=column)
    drawn.add_vline(x=0, line={"color": ZERO, "width": 1.5}, row=1, col=1)  # type: ignore[arg-type]  # the stub knows only "all"
    above = 1.0 + 16 / (25 * len(table))  # names of lines that may stand close have rows of their own
    for value, text, colour, height in ((float(facts["chance"]), "a random direction", INK, above),
                                        (float(facts["own"]), "pairs like these", MARGIN, 1.0),
                                        (float(result.provenance["covered"]), "counts as covered", INK, above)):
        drawn.add_vline(x=value, line={"color": colour, "width": 1.2, "dash": "dot"}, row=1, col=2)  # type: ignore[arg-type]
        drawn.add_annotation(x=value, y=height, xref="x2", yref="paper", yanchor="bottom", text=text, showarrow=False,
                             font={"size": 11, "color": colour})
    drawn.update_xaxes(title_text="effect on the reward (SD)", row=1, col=1)
    drawn.update_xaxes(title_text="share of its direction that the pairs cover", range=[-0.03, 1.12], tickformat=".0%",
                       tickvals=[0, 0.25, 0.5, 0.75, 1], row=1, col=2)
    drawn.update_yaxes(tickvals=table["y"], ticktext=[label(name, 28) for name in table["dimension"]], showgrid=False,
                       zeroline=False, range=[0.3, len(table) + 0.7])
    return drawn
