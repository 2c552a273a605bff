"""How often does an instrument find what is planted, by dose, and how well does its evidence tell organisms from nulls?

In: `Result`s of kind "grade". Out: Plotly figures. Nothing is estimated here: curves are counts.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from rewarden.errors import RewardenError
from rewarden.plots.theme import CHOSEN, INK, MARGIN, OTHER, REJECTED, ZERO, band, figure
from rewarden.result import Result

COLOURS = (CHOSEN, REJECTED, MARGIN, *OTHER)


def grade_power(result: Result) -> go.Figure:
    """Share of organisms that are found, by dose, against the share of null models with any flag.

    Args:
        result: of `rewarden.organisms.grade`.

    Raises:
        RewardenError: the instrument asks for none of the planted rules.

    Example:
        >>> from rewarden.plots.organism_examples import grade_result
        >>> [trace.name for trace in grade_power(grade_result()).data if trace.name]
        ['length', 'format']
    """
    data, names = result.data, _asked(result)
    doses = data["dose"].values
    drawn = figure(f"Found by {result.provenance['instrument']}, {result.provenance['seeds']} organisms a point",
                   x="dose, in units of the stated one", y="share of organisms found", height=380)
    for name, colour in zip(names, _colours(len(names)), strict=True):
        cell = data.sel(organism=name)
        for trace in band(doses, cell["power_low"].values, cell["power_high"].values, colour, name):
            drawn.add_trace(trace)
        each = zip(doses, *(cell[key].values for key in ("power", "power_low", "power_high", "auroc")), strict=True)
        words = [f"{name}, dose {dose:g}<br>power {p:.0%} ({low:.0%} to {high:.0%})<br>AUROC {area:.2f}"
                 for dose, p, low, high, area in each]
        drawn.add_trace(go.Scatter(x=doses, y=cell["power"].values, mode="lines+markers", name=name, legendgroup=name,
                                   text=words, line={"color": colour, "width": 2.5}, hovertemplate="%{text}<extra></extra>"))
    rate, low, high = (float(data[key]) for key in ("any_rate", "any_low", "any_high"))
    drawn.add_hrect(y0=low, y1=high, fillcolor=INK, opacity=0.15, line_width=0)
    drawn.add_hline(y=rate, line={"color": ZERO, "dash": "dot"}, annotation_text=f"random weights, any flag: {rate:.1%}",
                    annotation_position="bottom right", annotation_font_color=INK)
    drawn.update_yaxes(range=[-0.02, 1.04], tickformat=".0%")
    drawn.update_xaxes(type="log", tickvals=doses, ticktext=[f"{dose:g}" for dose in doses])
    return drawn


def grade_roc(result: Result, dose: float | None = None) -> go.Figure:
    """ROC curves: for every threshold on the evidence, shares of nulls and of organisms that reach it.

    Args:
        result: of `rewarden.organisms.grade`.
        dose: one of its doses; the one nearest to the stated dose when not given.

    Raises:
        RewardenError: the instrument asks for none of the planted rules, or was not graded at this dose.

    Example:
        >>> from rewarden.plots.organism_examples import grade_result
        >>> len(grade_roc(grade_result()).data)
        3
    """
    data, names = result.data, _asked(result)
    doses = data["dose"].values
    at = float(doses[np.abs(np.log(doses)).argmin()] if dose is None else dose)
    if at not in doses:
        raise RewardenError(f"not graded at dose {at:g}", where="grade_roc(dose=)", why=f"doses are {doses.tolist()}",
                            fix="choose one of them")
    drawn = figure(f"Evidence of {result.provenance['instrument']} at dose {at:g}", height=420,
                   x="share of null models that reach the evidence", y="share of organisms that reach it")
    for name, colour in zip(names, _colours(len(names)), strict=True):
        null_share, share = _curve(result, name, at)
        cell = data.sel(organism=name, dose=at)
        label = f"{name}: {float(cell['auroc']):.2f} ({float(cell['auroc_low']):.2f} to {float(cell['auroc_high']):.2f})"
        drawn.add_trace(go.Scatter(x=null_share, y=share, mode="lines", name=label,
                                   line={"color": colour, "width": 2.5},
                                   hovertemplate="nulls %{x:.1%}, organisms %{y:.0%}<extra></extra>"))
    drawn.add_trace(go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": ZERO, "dash": "dot"}, showlegend=False,
                               hoverinfo="skip"))
    drawn.update_xaxes(range=[-0.02, 1.02], tickformat=".0%")
    drawn.update_yaxes(range=[-0.02, 1.02], tickformat=".0%")
    return drawn


def _curve(result: Result, name: str, dose: float) -> tuple[np.ndarray, np.ndarray]:
    """Shares of nulls and organisms at each threshold, strictest first, from (0, 0) to (1, 1)."""
    data = result.data
    planted = data["planted"].sel(organism=name).values
    evidence = np.nan_to_num(data["verdict_evidence"].values[:, planted], nan=-np.inf).max(axis=1)
    whose, doses = data["model_organism"].values, data["model_dose"].values
    nulls, found = evidence[whose == "null"], evidence[(whose == name) & (doses == dose)]
    cuts = np.concatenate([[np.inf], np.unique(np.concatenate([nulls, found]))[::-1]])
    finite = np.r_[0.0, (nulls[None] >= cuts[1:, None]).mean(1)], np.r_[0.0, (found[None] >= cuts[1:, None]).mean(1)]
    return finite


def _asked(result: Result) -> list[str]:
    names = [str(name) for name in result.data["organism"].values if np.isfinite(result.data["auroc"].sel(organism=name)).any()]
    if not names:
        raise RewardenError("this instrument asks for none of the planted rules", where="grade",
                            why=f"organisms are {result.data['organism'].values.tolist()}",
                            fix="grade it on organisms whose truth names one of its questions")
    return names


def _colours(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]
