"""Does a model hear whether it is asked for the best or for the worst? Every token of a vocabulary in one plane.

In: a framing `Result`, or a scan of two prompts. Out: a Plotly figure: how many tokens lie where, and the outermost ones as
marks. A vocabulary has 100,000 tokens and a browser pans a few thousand marks, so the others are a picture of counts. The
correlation is the Result's; nothing is estimated here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from rewarden.errors import RewardenError
from rewarden.plots.labels import hover, label
from rewarden.plots.theme import CHOSEN, INK, REJECTED, figure, translucent
from rewarden.plots.tokens_names import is_text, token_names, token_notes
from rewarden.result import Result

MARKS = 3000
"""Tokens drawn one by one at most."""

SHARE = 0.1
"""Share of the vocabulary drawn one by one at most."""

NAMED = 7
"""Tokens written out at each end of each direction."""

FOUND = "found"
"""`meta` of the empty trace in which a page marks what its reader looks for."""

ENDS = (("liked under both", 1, 1), ("disliked under both", -1, -1), ("liked more under the first", 1, -1),
        ("liked more under the second", -1, 1))
"""Corners: what tokens lie towards them, and the signs of their two rewards against the mean."""

HEIGHT, WIDTH = 560, 900
"""Pixels of the figure, and those across which names must not cover each other."""

ROOM = 0.09
"""Share of the range of rewards that is left free at each edge, for names and the words in the corners."""

NAME = 18
"""Characters of a written name."""

LETTER, LINE = 7.5, 17
"""Pixels of a written name: of each letter, and in height."""


@dataclass(frozen=True)
class Plane:
    """Two rewards of every token, in reward units, with what the figure says of them."""

    x: np.ndarray
    y: np.ndarray
    axes: tuple[str, str]
    title: str


def plane_of(result: Result, positive: int | str = 0, negative: int | str = 1) -> Plane:
    """The two rewards of each token, not finite where a token has none.

    Args:
        result: of kind "framing", or a scan (`reward` (prompt, token)).
        positive, negative: prompts of a scan, by number or text; a framing result has its own.

    Raises:
        RewardenError: no such prompt, or twice the same.
    """
    data = result.data
    n = data.sizes["token"]
    if "reading" in data:
        reward = data["reading"].values * data["sd"].values + data["mean"].values  # [token, framing]
        asked = [str(result.provenance.get(side, side)).split("\n") for side in ("positive", "negative")]
        axes = [f"reward under “{label(texts[0], 70)}”" if len(texts) == 1 else f"mean reward under {len(texts)} {side} prompts"
                for texts, side in zip(asked, ("positive", "negative"), strict=True)]
        r, low, high = (_two(float(data[name])) for name in ("correlation", "correlation_low", "correlation_high"))
        title = f"Reward of every token under two opposite questions: r = {r} [{low}, {high}]"
        return Plane(reward[:, 0], reward[:, 1], (axes[0], axes[1]), f"{title} (n = {n} tokens{_rounding(result)})")
    known = [str(text) for text in data["prompt"].values]
    chosen = [_place(prompt, known) for prompt in (positive, negative)]
    if chosen[0] == chosen[1]:
        raise RewardenError("a map needs two prompts", where="plots.framing_map", why=f"both are {known[chosen[0]]!r}",
                            fix="pass positive= and negative=, numbers or texts of the scan's prompts")
    first, second = (data["reward"].values[place].astype(np.float64) for place in chosen)
    axes = [f"reward under “{label(known[place], 70)}”" for place in chosen]
    return Plane(first, second, (axes[0], axes[1]), f"Reward of every token under two questions (n = {n} tokens"
                                                    f"{_rounding(result)})")


def framing_map(result: Result, positive: int | str = 0, negative: int | str = 1, *, marks: int = MARKS) -> go.Figure:
    """Which tokens are liked whatever is asked, and which change sides with the question?

    Args:
        result: of `framing_plane`, or a scan of at least two prompts.
        positive: of a scan, the prompt that asks for something good, by number or text.
        negative: of a scan, the one that asks for something bad.
        marks: tokens drawn one by one at most: the outermost, measured in standard deviations of the cloud.

    Returns:
        x: reward under the first prompt, y: under the second, in reward units. Colours count tokens on a logarithmic scale;
        marks are single tokens with their ranks in the hover. The dotted line has the same standing under both. An empty
        last trace, `meta` "found", is for marks that a page adds.

    Example:
        >>> from rewarden.plots.token_examples import framing_result
        >>> [trace.type for trace in framing_map(framing_result()).data]
        ['heatmap', 'scatter', 'scattergl', 'scattergl', 'scatter', 'scatter']
    """
    plane = plane_of(result, positive, negative)
    finite = np.isfinite(plane.x) & np.isfinite(plane.y)
    if finite.sum() < 3:
        raise RewardenError("too few tokens with finite rewards for a map", where="plots.framing_map",
                            why=f"{int(finite.sum())} of {len(finite)}", fix="scan more tokens")
    names, notes, text = token_names(result.data), token_notes(result.data), is_text(result.data)
    drawn = figure(plane.title, x=plane.axes[0], y=plane.axes[1], height=HEIGHT, dragmode="pan", hovermode="closest")
    drawn.add_trace(_density(plane.x[finite], plane.y[finite]))
    drawn.add_trace(_same_standing(plane.x[finite], plane.y[finite]))
    out = outermost(plane.x, plane.y, marks)
    ranks = [_ranks(values) for values in (plane.x, plane.y)]
    for words, own, colour, symbol in (("one token", True, REJECTED, "circle"),
                                       ("one token that is no text", False, INK, "circle-open")):
        rows = out[text[out] == own]
        drawn.add_trace(go.Scattergl(
            x=_short(plane.x[rows]), y=_short(plane.y[rows]), mode="markers", name=words,
            marker={"color": translucent(colour, 0.7), "size": 5, "symbol": symbol},
            customdata=[[hover(names[row]) + (f"<br>({notes[row]})" if notes[row] else ""), *(int(rank[row]) for rank in ranks)]
                        for row in rows],
            hovertemplate="<b>%{customdata[0]}</b><br>first: %{x:.4g}, rank %{customdata[1]}<br>second: %{y:.4g}, "
                          "rank %{customdata[2]}<extra></extra>"))
    drawn.add_trace(_names(plane, names, finite & text))
    for update, values in ((drawn.update_xaxes, plane.x[finite]), (drawn.update_yaxes, plane.y[finite])):
        room = ROOM * float(np.ptp(values)) or 1.0
        update(range=[float(values.min()) - room, float(values.max()) + room])
    for words, right, top in ENDS:
        x, y = ("right", 0.995) if right > 0 else ("left", 0.005), ("top", 0.99) if top > 0 else ("bottom", 0.01)
        drawn.add_annotation(text=words, x=x[1], y=y[1], xref="paper", yref="paper", xanchor=x[0], yanchor=y[0],
                             showarrow=False, font={"size": 12, "color": INK})
    drawn.add_trace(go.Scatter(
        x=[], y=[], mode="markers+text", name="found", meta=FOUND, showlegend=False, textposition="top center",
        textfont={"size": 13}, hovertemplate="<b>%{text}</b><br>first: %{x:.4g}<br>second: %{y:.4g}<extra></extra>",
        marker={"size": 11, "color": "#ffffff", "line": {"width": 2.5, "color": "#14171b"}}))
    return drawn


def outermost(x: np.ndarray, y: np.ndarray, limit: int = MARKS) -> np.ndarray:
    """Rows furthest from the middle of the cloud (Mahalanobis distance), the furthest first: at most `limit`, and a tenth.

    Example:
        >>> outermost(np.array([0.0, 1, -1, 9, np.nan]), np.array([1.0, 0, -1, 9, 2]), limit=1)
        array([3])
    """
    rows = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    cloud = np.stack([x[rows], y[rows]], 1)
    centred = cloud - cloud.mean(0)
    distance = np.einsum("ni,ij,nj->n", centred, np.linalg.pinv(np.cov(centred.T)), centred)
    return rows[np.argsort(-distance, kind="stable")[:min(limit, max(int(SHARE * len(rows)), 100))]]


def _density(x: np.ndarray, y: np.ndarray) -> go.Heatmap:
    """Counts of tokens on a grid, coloured by their logarithm; cells without a token are the page itself."""
    columns = int(np.clip(np.sqrt(len(x)) / 1.5, 24, 120))
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=(columns, int(columns * 0.7)))
    counts = counts.T.astype(int)
    logs = np.log10(np.where(counts > 0, counts, np.nan).astype(float))
    decades = np.arange(int(np.floor(np.nanmax(logs))) + 1)
    return go.Heatmap(
        z=np.round(logs, 2), x=_short((x_edges[:-1] + x_edges[1:]) / 2), y=_short((y_edges[:-1] + y_edges[1:]) / 2),
        customdata=counts, zmin=-0.3, colorscale=[[0, translucent(CHOSEN, 0.12)], [1, translucent(CHOSEN, 1.0)]],
        hoverongaps=False, hovertemplate="%{customdata} tokens near %{x:.3g}, %{y:.3g}<extra></extra>",
        colorbar={"title": {"text": "tokens"}, "thickness": 12, "tickvals": decades.tolist(), "len": 0.6, "y": 1,
                  "yanchor": "top", "ticktext": [f"{10 ** int(decade)}" for decade in decades]})


def _same_standing(x: np.ndarray, y: np.ndarray) -> go.Scatter:
    """Where a token is as many standard deviations from the mean under one prompt as under the other."""
    spread = (x.std(), y.std())
    reach = max(np.abs(side - side.mean()).max() / width for side, width in zip((x, y), spread, strict=True) if width > 0)
    ends = np.array([-reach, reach])
    return go.Scatter(x=x.mean() + ends * spread[0], y=y.mean() + ends * spread[1], mode="lines", hoverinfo="skip",
                      name="same standing under both", line={"color": INK, "dash": "dot", "width": 1.3})


def _names(plane: Plane, names: list[str], shown: np.ndarray) -> go.Scatter:
    """The furthest tokens of each direction written out, away from the cloud, where they do not cover each other."""
    rows = np.flatnonzero(shown)
    cloud = np.stack([plane.x, plane.y], 1)[rows]
    spread, width = cloud.std(0), np.ptp(cloud, axis=0)
    reading = (cloud - cloud.mean(0)) / np.where(spread > 0, spread, 1)
    pixels = cloud / np.where(width > 0, width, 1) * (WIDTH, HEIGHT)
    placed: list[tuple[int, str, np.ndarray, np.ndarray]] = []  # row, side, middle of its box, half of its size
    for _, *signs in ENDS:
        side = ("top" if signs[1] > 0 else "bottom") + (" center" if signs[0] != signs[1] else
                                                        " right" if signs[0] > 0 else " left")
        own = 0
        for row in np.argsort(-(reading @ signs), kind="stable")[:20 * NAMED]:
            half = np.array([LETTER * min(len(names[rows[row]]), NAME), LINE]) / 2
            middle = pixels[row] + half * (signs if signs[0] == signs[1] else (0, signs[1]))
            free = all((np.abs(middle - other) > half + size).any() for *_, other, size in placed)
            if free and own < NAMED:
                placed.append((int(row), side, middle, half))
                own += 1
    picked = rows[[row for row, *_ in placed]]
    return go.Scatter(x=_short(plane.x[picked]), y=_short(plane.y[picked]), mode="text", name="furthest tokens",
                      text=[label(names[row], NAME) for row in picked], textposition=[side for _, side, *_ in placed],
                      textfont={"size": 12}, hoverinfo="skip", showlegend=False, cliponaxis=False)


def _place(prompt: int | str, known: list[str]) -> int:
    place = known.index(prompt) if isinstance(prompt, str) and prompt in known else prompt
    if not isinstance(place, (int, np.integer)) or not -len(known) <= place < len(known):
        raise RewardenError(f"no prompt {prompt!r}", where="plots.framing_map", why=f"the scan has {known}",
                            fix="pass a number or one of these texts")
    return int(place) % len(known)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Rank from the best, 1; equal rewards share the best rank among them; 0 where not finite."""
    held = np.isfinite(values)
    ranks = np.zeros(len(values), int)
    ranks[held] = np.searchsorted(np.sort(-values[held]), -values[held]) + 1
    return ranks


def _short(values: np.ndarray) -> np.ndarray:
    """Float32: seven digits are more than a screen shows, and half the page."""
    return np.asarray(values, dtype=np.float32)


def _rounding(result: Result) -> str:
    return f"; rounding {result.noise_floor:.1g}" if result.noise_floor else ""


def _two(value: float) -> str:
    text = f"{abs(value):.2f}"
    return ("−" if value < 0 and float(text) else "") + text
