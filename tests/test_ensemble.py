"""An ensemble scores; what looks inside or edits takes one model at a time, and says so with the next step."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import numpy as np
import pytest
from tests.comparison.worlds import tiny
from tests.patching.by_hand import SHORTER, model_of

import rewarden as rw
from rewarden.contrasts import Contrast, contrast_effects
from rewarden.errors import RewardenError

INSIDE = ("edit", "plan", "base", "bases", "trace", "traces", "architecture", "readout", "read_layer", "forward")
VERBS = (rw.patch, rw.patch_paths, rw.estimate_effects, rw.agreement, rw.flip)


def both() -> rw.Ensemble:
    return rw.Ensemble([model_of("llama"), model_of("gpt2")])


@pytest.mark.parametrize("name", INSIDE)
def test_what_a_single_model_has_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(RewardenError) as error:
        getattr(both(), name)
    told = error.value
    assert (told.what, told.where, told.why, told.fix) == (
        f"Ensemble has no {name!r}: looking inside and editing take one model at a time", f"ensemble.{name}",
        "the members are different models; no run and no activation is common to them",
        f"call the analysis, or use model.{name}, for each model in ensemble.models")


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_causal_analyses_take_one_model_at_a_time(verb: Callable[..., object]) -> None:
    with pytest.raises(RewardenError) as error:
        verb(both(), SHORTER)
    told = error.value
    assert told.what == "Ensemble has no single residual stream: causal analyses take one model at a time"
    assert (told.where, told.fix) == ("rm=", "[rw.patch(model, pairs) for model in rm.models], and so for the other analyses")


@pytest.mark.parametrize("verb", [rw.attribute, rw.reward_lens], ids=lambda verb: verb.__name__)
def test_the_lens_and_the_ledger_refuse_it_too(verb: Callable[..., object]) -> None:
    with pytest.raises(RewardenError, match="Ensemble has no"):
        verb(both(), SHORTER)


def test_each_member_reads_its_own_text() -> None:
    """The first member's tokenizer writes both words as one unknown token; the bundled one knows them."""
    demo, plain = rw.load(), tiny()
    ensemble = rw.Ensemble([plain, demo])
    texts = [rw.Conversation.of("is it good", f"the {word}") for word in ("river", "weather", "river")]
    rows = [ensemble.encode(text) for text in texts]
    assert rows[0].ids.tolist() == rows[1].ids.tolist()
    assert rows[0].key() == rows[2].key() != rows[1].key()
    found = ensemble.reward_encoded(rows)
    np.testing.assert_allclose(found[:, 1:], np.column_stack([rm.reward(texts)[:, 0] for rm in (plain, demo)]), atol=1e-5)
    np.testing.assert_allclose(found[:, 0], found[:, 1:].mean(axis=1), atol=1e-6)
    assert found[0, 2] != found[1, 2]
    assert contrast_effects(ensemble, [Contrast.of("is it good", "the river", "the weather")]).effect[0, 0] == pytest.approx(
        found[0, 0] - found[1, 0], abs=1e-6)
    with pytest.raises(RewardenError, match="1 rows were not encoded by this ensemble"):
        ensemble.reward_encoded([rows[0], demo.encode(texts[0])])


def test_members_have_no_objectives_in_one_space() -> None:
    with pytest.raises(RewardenError, match="Ensemble has no objectives in one space"):
        rw.hacking.conflict(both(), SHORTER)  # type: ignore[arg-type]


def test_other_names_are_missing_as_ever() -> None:
    ensemble = both()
    with pytest.raises(AttributeError, match="'Ensemble' object has no attribute 'nothing'"):
        getattr(ensemble, "nothing")  # noqa: B009  # as an attribute it would not type-check
    assert not hasattr(ensemble, "architecture")
    twin = copy(ensemble)
    assert (twin.models, twin.name) == (ensemble.models, ensemble.name)
