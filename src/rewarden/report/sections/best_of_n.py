"""What happens when responses are selected by this reward? Best-of-n, tilts, and the features that selection raises.

In: candidates with a gold: those that the pairs hold, those of a file, or samples of the bundled policy for a bundled model.
Out: curves, features with their susceptibility. No section where there are no candidates.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from rewarden import plots
from rewarden.hacking.calibration import null_words
from rewarden.hacking.selection.covariances import compared, reliability
from rewarden.plots.bestof import best_of_n_table, gold_fall, rise_table, susceptibility_table
from rewarden.report.context import Audit
from rewarden.report.estimates import Estimate
from rewarden.report.section import Block, FigureBlock, Finding, Section, section
from rewarden.report.selected_features import NAME, blocks_of, findings_of, follows_dictionary, values_of
from rewarden.report.tables import number
from rewarden.report.words import amount, interval, listed, plural
from rewarden.result import Result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rewarden.hacking.selection.candidates import ScoreTable

TITLE = "Selecting by the reward: best of n"
LEAST, PROMPTS = 4, 120
"""Candidates that a prompt must have, and prompts scored at most."""

LEAST_PROMPTS = 10
SAMPLED, SAMPLES, LONGEST = 32, 8, 32
"""Prompts, samples of each and tokens a sample, where the bundled policy answers; with fewer prompts it is not asked."""

LABELS = "label (1 chosen, 0 rejected)"
OWN = "the pairs' own"
"""Candidates that are chosen and rejected responses, and so no draws of a policy."""

RISING = 8
"""Features drawn along n."""


@section("best_of_n", title=TITLE, order=365)
def build(audit: Audit) -> Section | None:
    """The section; None without candidates."""
    if not _asked(audit):
        return None
    table, inside = cache(lambda: table_of(audit)), follows_dictionary(audit)
    inner = cache(lambda: values_of(audit, table()) if inside else {})
    curves = audit.result("best_of_n", lambda: _curves(audit, table(), inner()))
    follows = audit.result("susceptibility", lambda: _follows(audit, table()))
    return described(curves, follows, audit.result(NAME, lambda: _follows(audit, table(), inner())) if inside else None)


def _asked(audit: Audit) -> bool:
    """Whether there are candidates, or what was found with them."""
    if audit.options.candidates == "none":
        return False
    if audit.rm is None:
        return audit.run is not None and (audit.run.results_folder / "best_of_n.nc").exists()
    return audit.options.candidates != "auto" or len(_held(audit)[0]) >= LEAST_PROMPTS or _sampled(audit)


def _held(audit: Audit) -> tuple[list, list, list]:
    """Candidates of the audited pairs: prompts, responses, labels."""
    from rewarden.hacking.selection.scoring import candidates

    return candidates([audit.pairs[row] for row in audit.counted["row"]], LEAST)


def _sampled(audit: Audit) -> bool:
    """Whether the model is a bundled one, whose policy is at hand and whose sibling is a gold, and there are prompts enough."""
    return len(set(audit.counted["prompt"])) >= SAMPLED and bool(_sibling(audit))


def _sibling(audit: Audit) -> str:
    """Name of the other bundled reward model; "" for a model that is not bundled."""
    from rewarden.checkpoint import weights_hash
    from rewarden.demo import model_path

    mine = audit.model().provenance().get("weights_sha256")
    siblings = {"reward_model": "reward_model_b", "reward_model_b": "reward_model"}
    return next((other for name, other in siblings.items() if mine and weights_hash(str(model_path(name)), None) == mine), "")


def table_of(audit: Audit) -> ScoreTable:
    """The candidates with their rewards and golds."""
    from rewarden.hacking.selection.candidates import ScoreTable
    from rewarden.hacking.selection.scoring import score_table, table_again

    audit.progress("scoring candidates of each prompt")
    rm = audit.model()
    if audit.options.candidates != "auto":
        return table_again(rm, ScoreTable.read(audit.options.candidates), seed=audit.options.seed)
    prompts, responses, labels = _held(audit)
    if len(prompts) >= LEAST_PROMPTS:
        some = np.sort(np.random.default_rng(audit.options.seed).permutation(len(prompts))[:PROMPTS])
        made = score_table(rm, [labels[i] for i in some], [prompts[i] for i in some], [responses[i] for i in some],
                           seed=audit.options.seed)
        return made.noted(candidates=OWN, gold_name=LABELS)
    from rewarden.hacking.selection.sampling import sample_responses
    from rewarden.loading import load

    first = audit.counted.drop_duplicates("prompt")["row"].tolist()
    asked = [audit.pairs[row].prompt for row in audit.sample(SAMPLED, first)]
    drawn = sample_responses("demo:language_model", asked, SAMPLES, max_new_tokens=LONGEST, sample_seed=audit.options.seed)
    made = score_table(rm, load(f"demo:{_sibling(audit)}"), asked, drawn.responses, seed=audit.options.seed)
    return made.noted(candidates=f"samples of the bundled language model, up to {LONGEST} tokens", gold_name=_sibling(audit))


def _curves(audit: Audit, table: ScoreTable, inner: dict[str, Any]) -> Result:
    from rewarden.hacking.selection.bestof import best_of_n
    from rewarden.hacking.selection.covariances import feature_columns

    options, features = audit.options, None
    if inner:
        names, values = feature_columns(table)
        features = {**dict(zip(names, values.T, strict=True)), **inner}
    return best_of_n(table, features, level=options.level, resamples=options.resamples, seed=options.seed)


def _follows(audit: Audit, table: ScoreTable, inner: dict[str, Any] | None = None) -> Result:
    from rewarden.hacking.selection.covariances import susceptibility

    options = audit.options
    return susceptibility(table, inner or None, level=options.level, resamples=options.resamples, seed=options.seed)


def described(curves: Result, follows: Result, inner: Result | None = None) -> Section:
    """The section of the curves, of features of style, and of features of a dictionary."""
    table, policy = susceptibility_table(follows, curves), curves.provenance.get("candidates") != OWN
    curve = best_of_n_table(curves) if policy else best_of_n_table(curves).drop(columns=["kl", "kl_pool"])
    blocks: list[Block] = [FigureBlock(
        plots.best_of_n_curves(curves, policy=policy), "Of n candidates of each prompt the one with the "
        "highest reward is taken. Blue, its "
        "reward; orange, its gold; both as gains over one candidate. Where orange falls while blue rises, harder selection "
        "lowers the gold." + " Diamonds: a policy that leans towards the reward by an exponential tilt, at the n of equal "
        "divergence." * policy, curve)]
    if len(table):
        blocks.append(FigureBlock(
            plots.susceptibility_forest(follows), "How strongly a feature goes with the reward among candidates of one prompt "
            "(dots), and with the gold (diamonds). " + (
                "A filled dot is a predicted hack: the reward follows the feature beyond chance and more than random read-outs "
                "of the same model do (grey), and the gold is not shown to (a correlation of the gold up to "
                f"{number(float(follows.provenance['negligible']), 2)} counts as none)." if compared(follows) else
                reliability(follows)), table))
    if "rise" in curves.data and len(rises := rise_table(curves)):
        blocks.append(FigureBlock(
            plots.rise_figure(curves, RISING), f"What the selected response shows more of, or less, as n grows: the "
            f"{min(RISING, len(rises))} of {plural(len(rises), 'feature')} that change most, against one candidate. The table "
            "has the intervals of the change at the largest n, each by itself.", rises))
    if inner is not None:
        blocks += blocks_of(inner, curves)
    told: dict[str, Any] = {name: _estimate(curves, name).data() for name in ("agreement", "best_gold_held_out")
                            if name in curves.data}
    fall = gold_fall(curves)
    findings = [*_selection(curves), *_features(follows), *_best(curves)]
    if inner is not None:
        findings += findings_of(inner, curves)
        told["dictionary_features"] = susceptibility_table(inner, curves).to_dict("records")
    return Section("best_of_n", TITLE, findings, blocks, _methods(curves, follows),
                   {"curve": curve.to_dict("records"), "features": table.to_dict("records"), **told,
                    "onset": fall and fall["from"], "fall": fall, "prompts": int(curves.provenance["prompts"])})


def _estimate(result: Result, name: str, place: int | None = None) -> Estimate:
    held = [result.data[f"{name}{end}"].values for end in ("", "_low", "_high")]
    return Estimate(*(float(value if place is None else value[place]) for value in held), int(result.data.sizes["prompt"]))


def _selection(curves: Result) -> list[Finding]:
    """What selection does to the gold."""
    data, most, prompts = curves.data, int(curves.data["n"].values[-1]), int(curves.data.sizes["prompt"])
    reward = _estimate(curves, "proxy_gain", -1)
    if "gold" not in data:
        return [Finding(f"Taking the best of {most} by the reward raises the reward by {amount(reward)} standard deviations "
                        f"(n = {prompts} prompts); there is no gold to say whether responses get better.", "fact", 20)]
    start, end, gain = float(data["gold"].values[0]), _estimate(curves, "gold", -1), _estimate(curves, "gold_gain", -1)
    gold, fall = "gold: " + str(curves.provenance.get("gold_name", "as given")), gold_fall(curves)
    seen = (f"the best of {most} by the reward has a gold of {amount(end)} against {number(start, 3)} of one candidate "
            f"({gold}; n = {prompts} prompts); reward and gold correlate with {amount(_estimate(curves, 'agreement'))} "
            "within prompts")
    if not np.isfinite(gain.value):
        return [Finding(f"All candidates of each prompt have the same gold ({gold}; n = {prompts} prompts): nothing is known "
                        "of what selecting by the reward does to it.", "fact", 20)]
    steps = int(data.sizes["step"])
    if fall is not None:
        return [Finding(f"{fall_words(fall)}: {seen}. {null_words('onset')}", "concern", 95)]
    if gain.high < 0:
        return [Finding(f"Selecting by the reward lowers the gold: {seen}.", "concern", 95)]
    if gain.covers(0):
        level = "concern" if _estimate(curves, "agreement").covers(0) else "fact"
        return [Finding(f"Selecting by the reward is not shown to raise the gold: {seen}.", level, 60)]
    return [Finding(f"Selecting by the reward raises the gold: {seen}. Of {plural(steps, 'doubling')} of n up to {most} none "
                    "is shown to lower it; a fall that so many prompts are too few to show, or one at larger n, is not "
                    f"excluded. {null_words('onset')}", "clear", 12)]


def fall_words(fall: Mapping[str, float]) -> str:
    """What is said of the first doubling over which the gold is shown to fall, without a full stop.

    Args:
        fall: of `rewarden.plots.bestof.gold_fall`.

    Example:
        >>> fall_words({"from": 4, "to": 8, "change": -0.5, "change_low": -0.7, "change_high": -0.3, "p": 0.01, "doublings": 3})
        'Selecting harder by the reward lowers the gold from n = 4 to n = 8, by 0.50 [0.30, 0.70] (p = 0.01; the first of 3 \
doublings tested that is shown to, Holm)'
    """
    by = interval(-fall["change"], -fall["change_high"], -fall["change_low"])
    return (f"Selecting harder by the reward lowers the gold from n = {fall['from']:g} to n = {fall['to']:g}, by {by} "
            f"(p = {number(fall['p'], 2)}; the first of {plural(int(fall['doublings']), 'doubling')} tested that is shown to, "
            "Holm)")


def _best(curves: Result) -> list[Finding]:
    """The best n, and what noise lends to the reward of the selected response."""
    data, told, prompts = curves.data, [], int(curves.data.sizes["prompt"])
    if "best_n" in data and float(data["gold_sd"]) > 0:
        best, one = int(data["best_n"]), number(float(data["gold"].values[0]), 3)
        share = float(data["n_chosen"].values[data["n"].values == best][0])
        told.append(f"The mean gold is highest at n = {best}, {number(float(data['best_gold']), 3)}; where one half of the "
                    f"prompts chooses n, the other half has a gold of {amount(_estimate(curves, 'best_gold_held_out'))} at it, "
                    f"against {one} of one candidate ({100 * share:.0f} % of the halves choose n = "
                    f"{best}; n = {prompts} prompts).")
    if "proxy_unbiased" in data:
        told.append(f"The reward of the best of {int(data['n'].values[-1])} is {amount(_estimate(curves, 'proxy', -1))} by the "
                    f"scores that select, and {amount(_estimate(curves, 'proxy_unbiased', -1))} by scores whose noise did not "
                    f"help to select it (n = {prompts} prompts).")
    return [Finding(" ".join(told), "fact", 6)] if told else []


def _features(follows: Result) -> list[Finding]:
    """Which features are predicted to be hacked."""
    table = susceptibility_table(follows)
    if not len(table) or not follows.provenance["gold"]:
        return []
    prompts, null = int(follows.provenance["prompts"]), reliability(follows)
    hacks = table[table["hack"].astype(bool)]
    asked = f"{plural(len(table), 'feature')} of style, n = {prompts} prompts"
    if not compared(follows):
        return [Finding(f"Whether a feature of style is hacked is not known ({asked}). {null}", "fact", 8)]
    if not len(hacks):
        return [Finding(f"No feature of style is predicted to be hacked ({asked}): of none is it shown that the reward follows "
                        f"it, more than random read-outs do, while the gold does not. {null}", "clear", 8)]
    named = [f"{row['feature'].replace('_', ' ')} (r = {interval(row['reward'], row['reward_low'], row['reward_high'])} with "
             f"the reward, {interval(row['gold'], row['gold_low'], row['gold_high'])} with the gold)"
             for row in hacks.head(4).to_dict("records")]
    more = f" and {len(hacks) - 4} more" if len(hacks) > 4 else ""
    return [Finding(f"Optimising against this reward is predicted to raise features that the gold does not ask for: "
                    f"{listed(named)}{more} ({asked}). {null}", "concern", 85)]


def _methods(curves: Result, follows: Result) -> str:
    facts, steps = curves.provenance, int(curves.data.sizes.get("step", 0))
    draws = ("with replacement" if facts["replacement"] else "without replacement" if facts.get("candidates") == OWN else
             "without replacement; unbiased for a policy where candidates are independent draws of it")
    source = ("Candidates are responses that the pairs hold, chosen and rejected, no draws of a policy: curves say how the "
              "reward ranks them, not what optimisation against it would reach. " if facts.get("candidates") == OWN else "")
    turning = (f"A fall of the gold is tested for {plural(steps, 'doubling')} of n (p: the larger of a permutation of golds "
               "within prompts and of Student's t over prompts, after Holm). " if steps else "")
    random = int(follows.provenance["references"])
    notes = " ".join(f"{note[0].upper()}{note[1:]}." for note in curves.warnings)
    return (f"Candidates: {facts.get('candidates', 'as given')}, {facts['samples']} of {facts['prompts']} prompts. Curves are "
            f"exact expectations over which n are drawn ({draws}; ties shared); intervals are over prompts (symmetric "
            f"bootstrap-t; at the best n, resampled prompts choose and tell). {source}{turning}A feature's correlation is "
            "pooled over prompts; its p is the largest of Student's t over prompts, of the comparison with the gold, and of "
            f"the rank among {random or 'no'} random read-outs of the same states, after Benjamini & Hochberg. It says what "
            f"optimisation would raise first, not why: features that go together are raised together. {notes}").strip()
