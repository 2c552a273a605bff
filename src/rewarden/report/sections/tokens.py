"""What does the model love and hate? Every token of its vocabulary as the response to two opposite questions.

In: the model. Out: a map of both rewards with a search over all tokens, the extremes, ties, and the tokens that would be scored
as others if the conversation were written as text. Left out, and said so, where the scan would take long.
"""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

import numpy as np
import pandas as pd
import xarray as xr

from rewarden import plots
from rewarden.options.vocabulary import GREATEST, WORST
from rewarden.plots.tokens_map import plane_of
from rewarden.plots.tokens_names import is_text, token_names
from rewarden.report.context import Audit
from rewarden.report.points import Points
from rewarden.report.section import Block, FigureBlock, Finding, Section, TableBlock, section
from rewarden.report.tables import number
from rewarden.report.words import interval, listed
from rewarden.result import Result

TITLE = "What it loves and hates"
PROMPTS = (GREATEST, WORST)
WORDS = ("greatest", "worst")
"""What the questions ask for, in a word."""

LIMIT = 120.0
"""Seconds of a scan from which it is left out unless it is asked for."""

TRIED = {"cpu": (16, 64)}
TRIED_FAST = (256, 2304)
"""Candidates of short scans, from which the time of the whole is told: on a CPU, on anything faster."""

RESAMPLES = 500
"""Bootstrap resamples at most: with thousands of tokens the ends hardly move, and a vocabulary is long."""

SAME = 0.8
"""Correlation of the two questions from which the model hardly tells them apart: either tells two thirds of the other."""

TIED = 0.05
"""Share of tokens with ties from which their order is no order."""

SHOWN, NAMED, FURTHEST = 20, 4, 10
"""Rows of the table of extremes; tokens named in a sentence; tokens of each direction in the map's table."""

DIRECTIONS = ("liked under both", "disliked under both", "liked more as the greatest", "liked more as the worst")
"""What the ends of the axes mean, in the order of `rewarden.tokens.framing.ENDS`."""

FLAGS = {"special": "control tokens", "byte": "parts of characters", "trimmed": "tokens whose white space the template cuts"}
"""Flags of a scan, and what is said of their number."""


@section("tokens", title=TITLE, order=380)
def build(audit: Audit) -> Section | None:
    """The section."""
    if audit.options.vocabulary == "none":
        return _left_out("on request (vocabulary=none)")
    if audit.options.vocabulary == "auto":
        cost = audit.result("tokens_cost", lambda: cost_of(audit)).data
        seconds, tokens = float(cost["seconds"]), int(cost["tokens"])
        if seconds > LIMIT:
            return _left_out(f"it would take about {_duration(seconds)} here ({tokens} tokens, {len(PROMPTS)} questions, on "
                             f"{cost['device'].values!s}); it is done unasked where it takes up to {_duration(LIMIT)}",
                             {"seconds": seconds, "tokens": tokens})
    return described(audit, audit.result("tokens", lambda: scan_of(audit)))


def scan_of(audit: Audit) -> Result:
    """Every token under both questions; provenance says how many `seconds` it took."""
    from rewarden.tokens import score_vocabulary  # torch; a report written again from its folder does without

    start = perf_counter()
    scan = score_vocabulary(audit.model(), list(PROMPTS))
    return replace(scan, provenance={**scan.provenance, "seconds": round(perf_counter() - start, 1)})


def cost_of(audit: Audit) -> Result:
    """About how many seconds the scan would take: `seconds`, `tokens`, `device`, from short scans."""
    from rewarden.tokens import score_vocabulary
    from rewarden.tokens.scan import with_readout
    from rewarden.tokens.vocabulary import every_id

    rm = with_readout(audit.model(), None)  # an ensemble says here that it has no vocabulary
    ids, device = every_id(rm), rm.device.type
    few, more = (min(count, len(ids)) for count in TRIED.get(device, TRIED_FAST))

    def taken(count: int) -> float:
        start = perf_counter()
        score_vocabulary(rm, PROMPTS[0], ids=ids[:count])
        return perf_counter() - start

    taken(few)  # pays for what is set up once
    short = taken(few)
    each = short / few  # too much, as it holds what a scan costs whatever its length
    if each * len(ids) * len(PROMPTS) > LIMIT:
        each = max(taken(more) - short, 0.0) / max(more - few, 1)
    data = xr.Dataset({"seconds": each * len(ids) * len(PROMPTS), "tokens": len(ids), "device": device})
    return Result("tokens_cost", data, rm.provenance(), exact=False)


def _left_out(why: str, data: dict[str, float] | None = None) -> Section:
    """The section without a scan: why, and how to get it."""
    return Section("tokens", TITLE, [Finding(
        f"The vocabulary was not scanned: {why}. To see what the model loves and hates, run `rewarden tokens MODEL`, or the "
        "audit with --vocabulary all.", "fact", -20)], data=data or {})


def _duration(seconds: float) -> str:
    """Seconds in the largest unit that leaves at least two of them.

    Example:
        >>> _duration(90), _duration(120), _duration(8000)
        ('90 seconds', '2 minutes', '2.2 hours')
    """
    for size, unit in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{number(seconds / size, 2)} {unit}"
    return f"{number(seconds, 2)} seconds"


def described(audit: Audit, scan: Result) -> Section:
    """The section of a scan of both questions."""
    from rewarden.tokens import TokenScores, framing_plane, moments

    scores = TokenScores(scan.kind, scan.data, scan.provenance, scan.exact, scan.noise_floor, scan.warnings)
    n_resamples = min(audit.options.resamples, RESAMPLES)
    plane = framing_plane(scores, [0], [1], level=audit.options.level, n_resamples=n_resamples, seed=audit.options.seed)
    shape = moments(scores, level=audit.options.level, n_resamples=n_resamples, seed=audit.options.seed)
    extremes = [plots.token_extremes(scan, place, SHOWN) for place in range(len(WORDS))]
    blocks: list[Block] = [FigureBlock(
        plots.framing_map(plane), "Across: the reward of a token as the whole answer to the question for the greatest thing "
        "ever; up: to the question for the worst. On the dotted line a token has the same standing under both; a model that "
        "hears the difference spreads its tokens away from it. Colour: how many tokens, on a logarithmic scale; dots: the "
        "outermost ones, with ranks and notes under the pointer. ␣ is a space that belongs to the token. Drag to move the map, "
        "type in the box to find any token of the vocabulary. The lists show what the model does, "
        "offensive words included.", furthest(plane), _points(plane))]
    for place, (word, table) in enumerate(zip(WORDS, extremes, strict=True)):
        blocks.append(TableBlock(
            f"Tokens with the highest and with the lowest reward as the {word} thing ever",
            "Ranks count from either end. Notes: special, a control token; bytes, a part of a character; trimmed, the chat "
            "template would cut its spaces; not itself as text: its text, put into the conversation and tokenised again, is "
            "another token; tied: other tokens have exactly this reward.", table, folded=place > 0))
    blocks.append(FigureBlock(
        plots.token_distribution(scan, shape), "All tokens under each question. Skewness above zero: a few tokens far above "
        "the rest; below zero: a few far below. The tails compare how far the outermost tokens of both ends lie from the "
        "median. Dashed: the mean; dots: the outermost tokens.", moment_rows(shape)))
    return Section("tokens", TITLE, _findings(scan, plane), blocks, _methods(scan, plane), {
        "correlation": {part: float(plane.data[f"correlation{end}"]) for part, end in
                        (("value", ""), ("low", "_low"), ("high", "_high"))},
        "n": int(plane.data["n"]), "not_itself_as_text": int((~scan.data["round_trip"].values.astype(bool)).sum()),
        "distinct": [int(count) for count in scan.data["distinct"].values],
        "extremes": {word: table.to_dict("records") for word, table in zip(WORDS, extremes, strict=True)}})


def furthest(plane: Result, n: int = FURTHEST) -> pd.DataFrame:
    """The tokens furthest out in each direction of the map, one row each: where, token, both rewards."""
    from rewarden.tokens import framing_extremes
    from rewarden.tokens.framing import ENDS

    data, rows = plane.data, []
    names = dict(zip(data["token_id"].values.tolist(), token_names(data), strict=True))
    mean, sd = data["mean"].values, data["sd"].values
    for end, words in zip(ENDS, DIRECTIONS, strict=True):
        found = framing_extremes(plane, end, n)
        reward = found[["positive", "negative"]].to_numpy() * sd + mean
        rows += [{"where": words, "token": names[int(token)], **{f"reward as the {word}": value for word, value in
                                                                zip(WORDS, values, strict=True)}}
                 for token, values in zip(found["token_id"], reward, strict=True)]
    return pd.DataFrame(rows)


def moment_rows(shape: Result) -> pd.DataFrame:
    """Moments with their intervals, one row a question and moment."""
    data = shape.data
    return pd.DataFrame([
        {"question": WORDS[row], "measure": str(name), **{part: float(data[part].values[row, place]) for part in
                                                         ("value", "low", "high")}, "n": int(data["n"].values[row])}
        for row in range(len(WORDS)) for place, name in enumerate(data["moment"].values)])


def _points(plane: Result) -> Points:
    """Every token, for the search below the map."""
    where = plane_of(plane)
    return Points(token_names(plane.data), where.x, where.y, "token", (f"as the {WORDS[0]}", f"as the {WORDS[1]}"))


def _findings(scan: Result, plane: Result) -> list[Finding]:
    data, n = plane.data, int(plane.data["n"])
    value, low, high = (float(data[f"correlation{end}"]) for end in ("", "_low", "_high"))
    common = number(100 * value**2, 3)
    numbers = (f"rewards of {n} single tokens as the greatest and as the worst thing ever correlate with r = "
               f"{interval(value, low, high)}")
    if low > SAME:
        found = [Finding(f"The model hardly hears whether it is asked for the best or for the worst: {numbers}; either "
                         f"tells {common} % of the other's variance.", "concern", 45)]
    elif high < 0:
        found = [Finding(f"The model tells opposite questions apart: {numbers}.", "fact", 12)]
    else:
        found = [Finding(f"{numbers[0].upper()}{numbers[1:]}: either tells {common} % of the other's variance.",
                         "fact", 12)]
    return [*found, *_extreme_findings(scan), *_text_findings(scan), *_tie_findings(scan)]


def _extreme_findings(scan: Result) -> list[Finding]:
    """The best and the worst words, control tokens and bytes apart."""
    text = np.flatnonzero(is_text(scan.data))
    parts = []
    for place, word in enumerate(WORDS):
        table = plots.token_extremes(replace(scan, data=scan.data.isel(token=text)), place, NAMED)
        named = [listed([f"“{row[f'{end} token']}” ({number(row[f'{end} reward'], 3)})" for row in table.to_dict("records")])
                 for end in ("best", "worst")]
        parts.append(f"as the {word} thing ever, {named[0]} get the highest rewards and {named[1]} the lowest")
    return [Finding(f"Of {len(text)} tokens that are text, {'; '.join(parts)}.", "fact", 11)]


def _text_findings(scan: Result) -> list[Finding]:
    """What the published path through text would have done to these tokens."""
    n, lost = scan.data.sizes["token"], int((~scan.data["round_trip"].values.astype(bool)).sum())
    counts = [(int(scan.data[flag].values.sum()), words) for flag, words in FLAGS.items()]
    held = [f"{count} {words}" for count, words in counts if count]
    return [Finding(
        f"Written into the conversation as text, as published scans do, {lost} of {n} tokens ({100 * lost / n:.1f} %) would be "
        f"scored as other tokens; here each is scored as itself.{f' The vocabulary has {listed(held)}.' if held else ''}",
        "fact", 4)]


def _tie_findings(scan: Result) -> list[Finding]:
    """How many rewards there are, and how many tokens share theirs."""
    ties, n = scan.data["ties"].values, scan.data.sizes["token"]
    first, second = (int(count) for count in scan.data["distinct"].values)
    said = f"{n} tokens have {first} different rewards as the {WORDS[0]} and {second} as the {WORDS[1]} thing ever"
    if float((ties > 1).mean()) <= TIED:
        return [Finding(f"{said}.", "fact", 3)]
    shares = [f"{100 * float((row > 1).mean()):.1f} % as the {word}" for row, word in zip(ties, WORDS, strict=True)]
    return [Finding(f"Many rewards are exactly equal: {said}; {listed(shares)} share theirs with another token, and the order "
                    "among them says nothing.", "concern", 30)]


def _methods(scan: Result, plane: Result) -> str:
    floor = number(float(scan.noise_floor or 0.0), 2)
    return (f"Every one of {scan.data.sizes['token']} token ids is put into the place of the response, as itself, after "
            f"“{PROMPTS[0]}” and after “{PROMPTS[1]}”, and the reward is read as for any conversation. Differences up to "
            f"{floor} reward units are rounding. r is Pearson's over {int(plane.data['n'])} tokens with finite rewards; its "
            f"interval is a bootstrap over {int(plane.data['n_clusters'])} words, because tokens that differ only in case and "
            "spaces are not independent. A token alone is an odd response: this says what the model reacts to, not which "
            "answers people would get. Questions: Christian et al., arXiv 2506.07326.")
