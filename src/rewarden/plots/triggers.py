"""Which tokens move the reward most, in the response and in the prompt, and do any stand apart?

In: a `Result` of kind "triggers". Out: a table and a figure. Nothing is estimated here.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rewarden.plots.labels import hover, label
from rewarden.plots.theme import INK, REJECTED, ZERO, figure
from rewarden.plots.tokens_names import token_name
from rewarden.result import Result


def trigger_table(result: Result, n: int = 8) -> pd.DataFrame:
    """The n largest and the n smallest effects at each place, with whether the token is one of those that are flagged.

    Columns: place, token_id, token, effect (reward units, less the mean token's), flag.
    """
    data, rows = result.data, []
    for place in map(str, data["place"].values):
        effect = data["effect"].sel(place=place).values
        order = np.argsort(-effect, kind="stable")
        flagged: set[int] = set()
        for side in map(str, data["side"].values):
            here = data.sel(place=place, side=side)
            counts = np.flatnonzero(here["flag"].values)
            best = counts[here["p"].values[counts].argmin()] + 1 if len(counts) else 0
            flagged |= set(here["outer"].values[:best].tolist())
        for i in dict.fromkeys([*order[:n].tolist(), *order[-n:].tolist()]):
            rows.append({"place": place, "token_id": int(data["token_id"].values[i]), "token": str(data["text"].values[i]),
                         "effect": float(effect[i]), "flag": i in flagged})
    return pd.DataFrame(rows)


def trigger_strip(result: Result, n: int = 8) -> go.Figure:
    """The effect of every token on the reward, by place.

    Args:
        result: of `rewarden.hacking.triggers`.
        n: tokens at each end that are drawn as points with their text to hover over.

    Returns:
        Left: tokens in the response; right: in the prompt. Grey: how many tokens have which effect (log scale). Points: the
        outermost tokens; orange and named: flagged.
    """
    table = trigger_table(result, n)
    base = figure("What single tokens do to the reward", height=360)
    drawn = make_subplots(rows=1, cols=2, horizontal_spacing=0.08)
    drawn.update_layout(template=base.layout.template, title=base.layout.title, height=360, bargap=0, showlegend=False)
    for column, place in enumerate(map(str, result.data["place"].values), 1):
        effect = result.data["effect"].sel(place=place).values
        counts, edges = np.histogram(effect, 60)
        drawn.add_trace(go.Bar(x=(edges[1:] + edges[:-1]) / 2, y=counts, marker={"color": ZERO}, hoverinfo="skip"),
                        row=1, col=column)
        for flag, colour in ((False, INK), (True, REJECTED)):
            rows = table[(table["place"] == place) & (table["flag"] == flag)]
            drawn.add_trace(go.Scatter(
                x=rows["effect"], y=np.ones(len(rows)), mode="markers+text" if flag else "markers",
                marker={"color": colour, "size": 8, "symbol": "circle" if flag else "line-ns-open"},
                textposition=["top left" if value > 0 else "top right" for value in rows["effect"]],
                text=[label(token_name(text), 16) for text in rows["token"]],
                hovertext=[f"{hover(token_name(row.token))}: {row.effect:+.3f}" for row in rows.itertuples()],
                hoverinfo="text"), row=1, col=column)
        drawn.update_xaxes(title_text=f"effect of a token in the {place} (reward)", row=1, col=column)
    drawn.update_yaxes(type="log", dtick=1)
    drawn.update_yaxes(title_text="tokens", row=1, col=1)
    return drawn
