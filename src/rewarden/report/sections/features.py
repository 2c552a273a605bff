"""Which features is the reward made of? Effects of a dictionary's features, beside what they say directly, with cards to read.

In: the model, pairs, a dictionary (the bundled one for the bundled model, a sparse reward model's own, or the one asked for).
Out: forest, scatter, what the margin is made of, cards. No section where there is no dictionary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rewarden import plots
from rewarden.plots.features import balance_table, card_line, feature_names, feature_table, strongest
from rewarden.report.context import Audit
from rewarden.report.estimates import MINIMUM, too_few
from rewarden.report.section import Block, FigureBlock, Finding, HtmlBlock, Section, TableBlock, section
from rewarden.report.tables import number
from rewarden.report.words import interval, listed
from rewarden.result import Result

if TYPE_CHECKING:
    from rewarden.dictionaries.dictionary import Dictionary
    from rewarden.reward_model import RewardModel

TITLE = "Which features the reward is made of"
PAIRS, TEXTS = 200, 400
"""Pairs whose features are removed one by one, and whose texts name them, at most."""

CARDS, NAMED = 3, 3
"""Cards shown and features named in a sentence, for each direction."""


@section("features", title=TITLE, order=480)
def build(audit: Audit) -> Section | None:
    """The section; None without a dictionary."""
    if not _asked(audit):
        return None
    effects = audit.result("features", lambda: effects_of(audit))
    n = effects.data.sizes["pair"]
    if n < MINIMUM:
        return Section("features", TITLE, [Finding(too_few("the effect of features", n, "pairs"), "fact", -5)])
    cards = audit.result("feature_cards", lambda: cards_of(audit, effects))
    return described(effects, cards)


def _asked(audit: Audit) -> bool:
    """Whether there is a dictionary, or what was found with one."""
    if audit.options.dictionary == "none":
        return False
    if audit.rm is None:
        return audit.run is not None and (audit.run.results_folder / "features.nc").exists()
    return audit.options.dictionary != "auto" or own_dictionary(audit.model()) is not None


def own_dictionary(rm: RewardModel) -> Dictionary | None:
    """The dictionary that belongs to this model: a sparse reward model's own, or the bundled one of the bundled model."""
    from rewarden.demo import dictionary_path
    from rewarden.dictionaries.dictionary import Dictionary
    from rewarden.sarm.head import SparseHead

    readout = getattr(rm, "readout", None)  # an ensemble has none
    if isinstance(readout, SparseHead):
        return readout.dictionary
    bundled = Dictionary.load(dictionary_path())
    weights = rm.provenance().get("weights_sha256") if readout is not None else None
    return bundled if weights and bundled.provenance.get("weights_sha256") == weights else None


def dictionary_of(audit: Audit) -> Dictionary:
    """The dictionary asked for."""
    from rewarden.dictionaries.dictionary import Dictionary

    found = own_dictionary(audit.model()) if audit.options.dictionary == "auto" else Dictionary.load(audit.options.dictionary)
    assert found is not None  # _asked
    return found


def effects_of(audit: Audit) -> Result:
    """Effects of all features that fire where the reward is read."""
    from rewarden.dictionaries import feature_effects  # torch; a report written again from its folder does without

    options = audit.options
    return feature_effects(audit.model(), [audit.pairs[row] for row in audit.sample(PAIRS)], dictionary_of(audit),
                           level=options.level, resamples=options.resamples, seed=options.seed)


def cards_of(audit: Audit, effects: Result) -> Result:
    """Cards of the features with the largest effects, from the texts of the audit's own pairs."""
    from rewarden.dictionaries import feature_cards, harvest, label_features
    from rewarden.dictionaries.labels import cards_result

    rm, dictionary = audit.model(), dictionary_of(audit)
    features = effects.data["feature"].values[strongest(effects)]
    kept = harvest(rm, [audit.pairs[row] for row in audit.sample(TEXTS)], sites=[str(effects.provenance["site"])], special=True)
    # with the model at hand labels hold each feature's weight in the reward, of linear and of sparse heads
    labels = label_features(kept, dictionary, features=features, rm=rm, seed=audit.options.seed)
    cards = feature_cards(kept, dictionary, features, labels=labels, effects=effects)
    return cards_result(cards, {**rm.provenance(), "rows": len(kept)})


def described(effects: Result, cards: Result) -> Section:
    """The section of effects and cards."""
    table = feature_table(effects, cards)
    blocks: list[Block] = [
        FigureBlock(
            plots.feature_forest(effects, cards), "How much lower the reward would be if the feature were removed where the "
            "reward is read and all that follows computed anew; means over the responses in which it fires, with the interval "
            "over prompts; filled, where it differs from zero after correction for the number of features. Chosen by this mean "
            "times how often the feature fires. Words in quotation marks name what sets its contexts apart, where that holds "
            "on texts held out.", table),
        FigureBlock(
            plots.feature_forest(effects, cards, by="margin"), "The same for the difference between chosen and rejected. "
            "Diamonds: what the feature says to the read-out directly.", _margin_rows(effects)),
        FigureBlock(
            plots.feature_scatter(effects, cards), "A point a feature. Off the dotted line, later layers change, cancel or add "
            "to what the feature says to the read-out: there the direct contribution is no guide to what would happen without "
            "it.", _scatter_rows(effects)),
        FigureBlock(
            plots.feature_balance(effects), "All bars together are the mean margin. What later layers write is not divided "
            "among the features; what is not reconstructed is what the dictionary does not see.", balance_table(effects))]
    blocks += _cards(effects, cards)
    return Section("features", TITLE, _findings(effects, cards, table), blocks, _methods(effects, cards),
                   {"features": table.to_dict("records"), "parts": balance_table(effects).to_dict("records"),
                    "n": effects.data.sizes["pair"], "marked": int(effects.data["marked"].sum())})


def _margin_rows(effects: Result) -> pd.DataFrame:
    places = strongest(effects, by="margin")
    names = {"margin": "effect_mean", "low": "effect_low", "high": "effect_high", "direct": "direct_mean", "q": "q"}
    return pd.DataFrame({"feature": effects.data["feature"].values[places],
                         **{name: effects.data[key].values[places] for name, key in names.items()}})


def _scatter_rows(effects: Result) -> pd.DataFrame:
    data = effects.data
    table = pd.DataFrame({"feature": data["feature"].values, "direct": data["direct_mean"].values,
                          "effect": data["effect_mean"].values, "marked": data["marked"].values})
    return table.sort_values("effect", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def _cards(effects: Result, cards: Result) -> list[Block]:
    """Cards of the features with the largest effect in each direction; the lines of all others in one table."""
    places = strongest(effects, CARDS)
    shown = [int(feature) for feature in effects.data["feature"].values[places]]
    known = [int(feature) for feature in cards.data["feature"].values]
    caption = ("Texts of the audited pairs around tokens where it fires, from strong to weak, and some where it is silent; the "
               "darker, the stronger.")
    blocks: list[Block] = [HtmlBlock(f"Feature {feature}", caption, plots.feature_card(cards, feature).html)
                           for feature in shown if feature in known]
    rest = [feature for feature in known if feature not in shown]
    if rest:
        said = [card_line(cards.data.sel(feature=feature)) for feature in rest]
        lines = pd.DataFrame({"feature": rest, "card": pd.Series(said, dtype=object)})  # a label need not be valid Unicode
        blocks.append(TableBlock("Other features with large effects", "One line of each card.", lines, folded=True))
    return blocks


def _findings(effects: Result, cards: Result, table: pd.DataFrame) -> list[Finding]:
    data, names = effects.data, feature_names(cards)
    n, count = data.sizes["pair"], data.sizes["feature"]
    marked, moving = int(data["marked"].sum()), int(data["reward_marked"].sum())
    named = {sign: [f"{int(row.feature)}{f' ({names[int(row.feature)]})' if int(row.feature) in names else ''} "  # type: ignore[arg-type]
                    f"{interval(row.effect, row.low, row.high)}" for row in rows.head(NAMED).itertuples()]  # type: ignore[arg-type]
             for sign, rows in (("raising it", table[table["effect"] > 0]), ("lowering it", table[table["effect"] < 0][::-1]))}
    sides = "; ".join(f"{sign}: {listed(words)}" for sign, words in named.items() if words)
    found = [Finding(f"Of {count} features that fire where the reward is read, {moving} move the reward and {marked} the "
                     f"margin when they are removed (n = {n} pairs). Largest effects on the reward, {sides}.", "fact", 16)]
    direct, effect = data["direct_mean"].values, data["effect_mean"].values
    both = np.isfinite(direct) & np.isfinite(effect)
    if both.sum() >= MINIMUM and np.ptp(direct[both]) > 0 and np.ptp(effect[both]) > 0:
        r = float(np.corrcoef(direct[both], effect[both])[0, 1])
        against = int(((direct * effect < 0) & data["marked"].values.astype(bool)).sum())
        found.append(Finding("What features say to the read-out directly and what their removal does correlate with r = "
                             f"{number(r, 2)} over {int(both.sum())} features"
                             + (f"; {against} of the {marked} that move the margin act against their direct contribution."
                                if marked else "."), "fact", 6))
    loss = (data["error_effect"].sel(side="chosen") - data["error_effect"].sel(side="rejected")).values
    margin = (data["reward"].sel(side="chosen") - data["reward"].sel(side="rejected")).values
    kept = float(np.mean(np.sign(margin - loss) == np.sign(margin)))
    found.append(Finding(f"With the dictionary's reconstruction in the activation's place where the reward is read, "
                         f"{100 * kept:.0f} % of {n} pairs keep the sign of their margin.",
                         "concern" if kept < 0.8 else "fact", 5))
    return found


def _methods(effects: Result, cards: Result) -> str:
    facts, rows = effects.provenance, int(cards.provenance.get("rows", 0))
    cost, floor = number(float(facts["forwards"]), 3), number(float(effects.noise_floor or 0.0), 2)
    return (f"{facts['dictionary']} at {facts['site']}, where the reward is read. A feature is removed by subtracting its "
            f"value times its decoder direction; {facts['edits']} such counterfactuals cost what {cost} forwards cost; effects "
            f"up to {floor} reward units are rounding. Direct contributions hold the final norm's scale at its value in the "
            "unedited run and sum, with the other parts, to the reward. Intervals are bootstraps over prompts; marks control "
            f"the false discovery rate at {100 * float(facts['alpha']):g} %. Labels are made from {rows} tokens of the audited "
            "pairs and scored on texts held out; they describe contexts, not causes.")
