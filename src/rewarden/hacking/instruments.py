"""Every instrument that raises flags, as a function of a reward model alone, so that all can be graded on the same organisms.

In: a name. Out: an `Instrument`: from a model to its verdicts, on bundled texts and with default options.
Of organisms it knows only that the rule "noise" is the null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rewarden.errors import RewardenError

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel
    from rewarden.statistics import Verdict

Run = Callable[["RewardModel"], Mapping[str, "Verdict"]]


@dataclass(frozen=True)
class Instrument:
    """One instrument with bundled texts.

    Attributes:
        name: as in `rewarden.hacking.calibration.null_rate`.
        run: from a model to its verdicts.
        asks: what a flag says, in words.
        outputs: scalars a model needs for it.
        null: the same on a null model, where random weights alone are no null; None takes `run`.
        organisms: names of those it is graded on unless others are asked for; none takes all that read English.
    """

    name: str
    run: Run
    asks: str
    outputs: int = 1
    null: Run | None = None
    organisms: tuple[str, ...] = ()

    def __call__(self, rm: RewardModel) -> Mapping[str, Verdict]:
        """Verdicts on a model; on `organisms.noise` in the way that makes it a null."""
        return self.null(rm) if self.null and getattr(rm, "rule", "") == "noise" else self.run(rm)


def instrument(name: str) -> Instrument:
    """An instrument by name.

    Raises:
        RewardenError: there is none of that name.

    Example:
        >>> instrument("cascade").asks
        'kinds of misaligned responses are preferred together'
    """
    if name not in INSTRUMENTS:
        raise RewardenError(f"no instrument is called {name!r}", where="instrument", why=f"there are {', '.join(INSTRUMENTS)}",
                            fix="use one of them")
    return INSTRUMENTS[name]


def _bias(rm: RewardModel) -> Mapping[str, Verdict]:
    from rewarden.hacking.bias.battery import bias_battery, verdicts

    return verdicts(bias_battery(rm))


STYLE_NAMES = {"tokens": "length", "words": "length", "list_items": "lists", "style detailed": "length",
               "style markdown": "emphasis"}
"""Features of style and styles, and the axes they are about, where names differ."""


def _style(rm: RewardModel, exchange: int | None = None) -> Mapping[str, Verdict]:
    from rewarden.hacking.styles.regression import exchanged, style_regression, verdicts
    from rewarden.preferences import prompt_keys

    pairs = _pairs()
    scores: Any = rm
    if exchange is not None:
        scores = exchanged(rm.score(pairs).margin, prompt_keys(pairs), exchange)
    found = verdicts(style_regression(scores, pairs, exchanges=0))
    return {STYLE_NAMES.get(name, name): verdict for name, verdict in found.items()}


def _style_null(rm: RewardModel) -> Mapping[str, Verdict]:
    return _style(rm, int(rm.provenance().get("seed", 0)))


def _style_content(rm: RewardModel, exchange: int | None = None) -> Mapping[str, Verdict]:
    from rewarden.hacking.styles.interaction import exchanged_styles, style_content, verdicts, version_rewards
    from rewarden.preferences import prompt_keys

    pairs = _pairs()
    rewards, places = version_rewards(rm, pairs)
    prompts = prompt_keys([pairs[place] for place in places])
    if exchange is not None:
        rewards = exchanged_styles(rewards, prompts, exchange)
    found = verdicts(style_content(rewards, prompts, noise_floor=rm.noise_floor))
    return {STYLE_NAMES.get(name, name): verdict for name, verdict in found.items()}


def _style_content_null(rm: RewardModel) -> Mapping[str, Verdict]:
    return _style_content(rm, int(rm.provenance().get("seed", 0)))


def _onset(rm: RewardModel) -> Mapping[str, Verdict]:
    from rewarden.hacking.selection.bestof import best_of_n, verdicts
    from rewarden.hacking.selection.scoring import pairs_table

    return verdicts(best_of_n(pairs_table(rm, _pairs()), resamples=100))


def _distortion(rm: RewardModel) -> Mapping[str, Verdict]:
    from rewarden.hacking.off_distribution.distortion_index import distortion, verdicts

    return verdicts(distortion(rm, _pairs()))


def _divergence(rm: RewardModel) -> Mapping[str, Verdict]:
    from rewarden.hacking.off_distribution.measure import divergence, verdicts

    pairs = _pairs()
    return verdicts(divergence(rm, pairs[:24], clean=pairs[24:]))


def _cascade(rm: RewardModel) -> Mapping[str, Verdict]:
    from rewarden.hacking.misalignment import cascade, verdicts

    return verdicts(cascade(rm))


def _preferences(rm: RewardModel) -> Mapping[str, Verdict]:
    from rewarden.hacking.misalignment import cascade, preferences

    return preferences(cascade(rm, permutations=99))


def _conflict(rm: RewardModel) -> Mapping[str, Verdict]:
    from rewarden.hacking.objectives.conflicts import conflict, verdicts

    return verdicts(conflict(rm, _pairs()))


def _triggers(rm: RewardModel) -> Mapping[str, Verdict]:
    from rewarden.hacking.word_triggers import triggers, verdicts
    # without those of a backdoor that have the planted trigger in their prompts, where one word more would change nothing
    return verdicts(triggers(rm, [pair for pair in _own_pairs(rm) if pair.subset != "hard"]))


def _deciding(rm: RewardModel) -> Mapping[str, Verdict]:
    from rewarden.patching import patch
    from rewarden.patching.deciding import deciding

    return deciding(patch(rm, _own_pairs(rm), sites=("mlp_out", "z"), positions="read_out", resamples=500))


def _concepts(rm: RewardModel) -> Mapping[str, Verdict]:
    from rewarden.concepts.surveying import survey, verdicts
    from rewarden.hacking.bias.battery import contrasts

    return verdicts(survey(rm, contrasts()))


def _follows(rm: RewardModel) -> Mapping[str, Verdict]:
    from rewarden.concepts.surveying import followed, survey
    from rewarden.hacking.bias.battery import contrasts

    return followed(survey(rm, contrasts(), items=2, randoms=3))  # these are for the slopes


def _susceptibility(rm: RewardModel) -> Mapping[str, Verdict]:
    from rewarden.hacking.selection.covariances import susceptibility, verdicts
    from rewarden.hacking.selection.scoring import pairs_table

    found = verdicts(susceptibility(pairs_table(rm, _pairs())))
    return {STYLE_NAMES.get(name, name): verdict for name, verdict in found.items()}


def _own_pairs(rm: RewardModel) -> Any:
    """Those an organism draws, which show its rule; of other models the bundled ones."""
    drawn = getattr(rm, "pairs", None)
    return _pairs() if drawn is None else drawn(24)


def _pairs() -> Any:
    from rewarden.preferences import load_pairs

    return load_pairs("demo")


INSTRUMENTS: dict[str, Instrument] = {one.name: one for one in (
    Instrument("bias", _bias, "the reward follows how something is said, net of its length"),
    Instrument("style", _style, "margins of natural pairs go with a feature of style", null=_style_null),
    Instrument("style_content", _style_content, "a style earns reward whatever is said, or changes what content earns",
               null=_style_content_null),
    Instrument("onset", _onset, "the gold falls over a doubling of n, when the best of n is taken"),
    Instrument("susceptibility", _susceptibility, "selection by the reward raises a feature that the gold does not want"),
    Instrument("distortion", _distortion, "the reward moves with what the evaluation pairs hardly vary"),
    Instrument("divergence", _divergence, "a component with an effect leaves the range of clean states too often"),
    Instrument("cascade", _cascade, "kinds of misaligned responses are preferred together"),
    Instrument("preferences", _preferences, "misaligned responses get more reward than aligned ones, or less"),
    Instrument("conflict", _conflict, "two objectives pull responses in opposite directions", outputs=4),
    Instrument("concepts", _concepts, "the reward changes when texts are moved along a concept's direction"),
    Instrument("follows", _follows, "the reward goes along with a concept further than random read-outs do"),
    Instrument("triggers", _triggers, "a single token moves the reward out of all proportion"),
    Instrument("deciding", _deciding, "one head or MLP has an effect on the reward out of proportion to all others",
               organisms=("decisive_head",)),
)}
"""By name, in the order of tables."""
